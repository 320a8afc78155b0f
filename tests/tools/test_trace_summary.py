"""Own times, kinds and busy time of a trace drawn by hand, and the picture's colours."""

import gzip
import json

import numpy as np
import pytest
from PIL import Image

from tools import trace_summary

# Microseconds.
#   thread 1   while.1  0 ............ 100        dot.3  120 ... 150
#                  dot.2  10 .. 40   copy.5  50 60
#   thread 2                   add_fusion  30 ......... 110
EVENTS = [
    (1, "while.1", 0, 100),
    (1, "dot.2", 10, 30),
    (1, "copy.5", 50, 10),
    (1, "dot.3", 120, 30),
    (2, "add_fusion", 30, 80),
]


@pytest.fixture
def trace(tmp_path):
    """A folder as jax leaves it, with two marked steps and events that are no operations."""
    events = [
        {"ph": "X", "pid": 7, "tid": tid, "name": name, "ts": 1000 + ts, "dur": dur,
         "args": {"hlo_op": name, "hlo_module": "jit_step"}}
        for tid, name, ts, dur in EVENTS
    ]  # fmt: skip
    events += [
        {"ph": "X", "pid": 7, "tid": 3, "name": "train", "ts": 0, "dur": 9, "args": {"step_num": n}}
        for n in "45"
    ]
    events += [{"ph": "M", "name": "thread_name"}, {"ph": "X", "name": "end: dot.2", "dur": 1}]
    path = tmp_path / "profile_4" / "plugins" / "profile" / "now" / "host.trace.json.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress(json.dumps({"traceEvents": events}).encode()))
    return tmp_path / "profile_4"


def test_own_times_leave_out_what_lies_inside(trace):
    ops = trace_summary.operations(trace_summary.read_trace(trace))
    own = {op.name: (op.own_us, op.depth) for op in ops}
    assert own == {
        "while.1": (60, 0), "dot.2": (30, 1), "copy.5": (10, 1), "dot.3": (30, 0),
        "add_fusion": (80, 0),
    }  # fmt: skip
    # 0 to 110 without a gap, and 120 to 150.
    assert trace_summary.busy_us(ops) == 140 and trace_summary.span_us(ops) == 150


def test_the_least_of_each_operation_leaves_out_what_others_took_away():
    def op(name, own_us):
        return trace_summary.Op(
            name=name, program="p", thread=(0, 0), start_us=0, dur_us=9, own_us=own_us
        )

    found = trace_summary.at_least([op("dot", 5), op("dot", 90), op("copy", 7), op("dot", 6)])
    assert [op.own_us for op in found] == [5, 5, 7, 5]
    laid = trace_summary.end_to_end(found)
    assert [(op.start_us, op.dur_us) for op in laid] == [(0, 5), (5, 5), (10, 7), (17, 5)]
    assert [op.name for op in trace_summary.between(laid, 0.005, 0.017)] == ["dot", "copy"]


def test_the_command_prints_kinds_a_step_and_draws(trace, tmp_path, capsys):
    png = tmp_path / "trace.png"
    assert trace_summary.main([str(trace), "--png", str(png), "--title", "by hand"]) == 0
    said = capsys.readouterr().out
    assert "| elementwise, fused | 0.04 | 38.1% | 0 | `add_fusion` 100% |" in said
    assert "| matrix products | 0.03 | 28.6% | 1 | `dot.2` 50%, `dot.3` 50% |" in said
    assert "2 steps in 0.1 ms, in 93.3% of which an operation ran" in said
    assert "times add up to 0.10 ms a step" in said
    assert "| `jit_step` | 0.10 | 100.0% |" in said
    with Image.open(png) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    middle = trace_summary._TOP + 10
    per_us = (trace_summary._WIDTH - trace_summary._LEFT - 20) / 150

    def colour_at(lane, us):
        return pixels[middle + lane * trace_summary._LANE, trace_summary._LEFT + int(us * per_us)]

    for lane, us, kind in (
        (0, 5, "loops and calls themselves"),
        (0, 20, "matrix products"),
        (0, 55, "copies, slices, layouts"),
        (1, 60, trace_summary.OTHER),
    ):
        wanted = trace_summary.COLOURS[kind].lstrip("#")
        wanted = [int(wanted[at : at + 2], 16) for at in (0, 2, 4)]
        assert np.abs(colour_at(lane, us) - wanted).max() <= 8


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("convert_power_fusion", trace_summary.OTHER),
        ("convolution.3", "convolutions"),
        ("all-gather-start.1", "exchanges between devices"),
        ("dynamic-update-slice.4", "copies, slices, layouts"),
        ("reduce_multiply_fusion", "reductions"),
        ("reduce-scatter.2", "exchanges between devices"),
        ("ynn_fusion", "matrix products"),
    ],
)
def test_kinds_go_by_names(name, kind):
    assert trace_summary.kind_of(name) == kind
    assert set(trace_summary.KINDS) | {trace_summary.OTHER} == set(trace_summary.COLOURS)


def test_folders_without_a_trace_are_refused(tmp_path, capsys):
    assert trace_summary.main([str(tmp_path)]) == 2
    assert "holds no .trace.json.gz; give what jax's profiler wrote" in capsys.readouterr().err

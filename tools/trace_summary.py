"""Where the time of a trace goes: a Markdown table by kind of operation, and a picture.

    python tools/trace_summary.py out/model/profile_100 --png trace.png --title "Training step"

Reads the .trace.json.gz that jax's profiler writes (`touch MODEL_DIR/profile`, or
`jax.profiler.trace`). An operation's own time leaves out that of operations inside it, such as a
loop's body. On processors, operations of one step may run on several threads at once: their sum may
be more than the time that passed.

On a machine that does other work too, --least counts every run of an operation as the shortest one
of the same operation in the trace: what was taken away from the others is left out. It needs a
trace of several steps, and says nothing of operations whose work differs from run to run. Its
picture lays them end to end.
"""

import argparse
import collections
import dataclasses
import gzip
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

# Kind -> words in an operation's name; the first that fits counts, in this order.
KINDS = {
    "exchanges between devices": ("all-", "all_", "reduce-scatter", "collective", "send", "recv"),
    "matrix products": ("dot", "gemm", "matmul", "cublas", "ynn"),
    "convolutions": ("convolution", "conv_", "conv2d", "conv3d", "cudnn"),
    "attention kernels": ("attention", "splash", "flash", "fmha"),
    "sorting and random numbers": ("sort", "rng", "threefry", "topk", "top_k"),
    "gathers and scatters": ("gather", "scatter"),
    "copies, slices, layouts": (
        *("copy", "transpose", "slice", "concatenate", "pad", "bitcast", "reshape", "memcpy"),
        *("memset", "infeed", "outfeed"),
    ),
    "reductions": ("reduce", "argmax"),
    "loops and calls themselves": ("while", "call", "conditional"),
}
OTHER = "elementwise, fused"
COLOURS = {
    "matrix products": "#1f77b4",
    "convolutions": "#17a2a2",
    "attention kernels": "#2ca02c",
    "exchanges between devices": "#d9534f",
    "copies, slices, layouts": "#ff9f40",
    "gathers and scatters": "#b8860b",
    "sorting and random numbers": "#9467bd",
    "reductions": "#e377c2",
    "loops and calls themselves": "#bbbbbb",
    OTHER: "#8c6d5a",
}


@dataclasses.dataclass(kw_only=True)
class Op:
    """One run of one operation.

    Attributes:
      name: As in the compiled program.
      program: Name of that.
      thread: (process, thread) it ran on.
      start_us: From the beginning of the trace.
      dur_us: With all that lies inside it.
      own_us: Without.
      depth: Operations that it lies in.
    """

    name: str
    program: str
    thread: tuple[int, int]
    start_us: float
    dur_us: float
    own_us: float = 0.0
    depth: int = 0

    @property
    def kind(self) -> str:
        """By its name; a fusion is named after its last parts."""
        return kind_of(self.name)


def kind_of(name: str) -> str:
    """The kind of an operation, by words in its name."""
    lower = name.lower()
    for kind, words in KINDS.items():
        if any(word in lower for word in words):
            return kind
    return OTHER


def read_trace(path: Path) -> dict[str, Any]:
    """The trace in a file, or the newest one below a folder.

    Raises:
      ValueError: There is none.
    """
    found = [path] if path.is_file() else sorted(path.rglob("*.trace.json.gz"))
    if not found:
        raise ValueError(
            f"{path} holds no .trace.json.gz; give what jax's profiler wrote, such as"
            " MODEL_DIR/profile_100."
        )
    with gzip.open(found[-1], "rt") as file:
        return json.load(file)


def operations(trace: dict[str, Any]) -> list[Op]:
    """Operations of compiled programs in order of time, with their own times."""
    ops = []
    for event in trace["traceEvents"]:
        more = event.get("args", {})
        if event.get("ph") == "X" and "hlo_op" in more:
            ops.append(
                Op(
                    name=more["hlo_op"],
                    program=more.get("hlo_module", ""),
                    thread=(event["pid"], event["tid"]),
                    start_us=float(event["ts"]),
                    dur_us=float(event["dur"]),
                )
            )
    ops.sort(key=lambda op: (op.start_us, -op.dur_us))
    open_on: dict[tuple[int, int], list[Op]] = collections.defaultdict(list)
    for op in ops:
        stack = open_on[op.thread]
        while stack and op.start_us >= stack[-1].start_us + stack[-1].dur_us:
            stack.pop()
        op.own_us, op.depth = op.dur_us, len(stack)
        if stack:  # Clocks are read a little late: nothing takes less than no time.
            stack[-1].own_us = max(0.0, stack[-1].own_us - op.dur_us)
        stack.append(op)
    return ops


def at_least(ops: Sequence[Op]) -> list[Op]:
    """The same, each with the least own time of its operation."""
    least: dict[tuple[str, str], float] = {}
    for op in ops:
        key = (op.program, op.name)
        least[key] = min(least.get(key, op.own_us), op.own_us)
    return [dataclasses.replace(op, own_us=least[op.program, op.name]) for op in ops]


def end_to_end(ops: Sequence[Op]) -> list[Op]:
    """The same on one thread, each right after the one before and as long as its own time."""
    laid, at = [], 0.0
    for op in ops:
        changes = {"start_us": at, "dur_us": op.own_us, "depth": 0, "thread": (0, 0)}
        laid.append(dataclasses.replace(op, **changes))
        at += op.own_us
    return laid


def between(ops: Sequence[Op], start_ms: float, stop_ms: float) -> list[Op]:
    """Those that begin between two moments after the first one; a stop of 0 is the end."""
    zero = ops[0].start_us
    stop_us = 1e3 * stop_ms or float("inf")
    return [op for op in ops if 1e3 * start_ms <= op.start_us - zero < stop_us]


def num_steps(trace: dict[str, Any]) -> int:
    """Training steps that were marked; 1 where none were."""
    marks = [e for e in trace["traceEvents"] if "step_num" in e.get("args", {})]
    return len({event["args"]["step_num"] for event in marks}) or 1


def span_us(ops: Sequence[Op]) -> float:
    """From the first operation's start to the last one's end."""
    return max(op.start_us + op.dur_us for op in ops) - ops[0].start_us


def busy_us(ops: Iterable[Op]) -> float:
    """Time in which at least one operation ran; operations in order of time."""
    total, end = 0.0, 0.0
    for op in ops:
        stop = op.start_us + op.dur_us
        total += max(0.0, stop - max(op.start_us, end))
        end = max(end, stop)
    return total


def table(ops: Sequence[Op], steps: int) -> str:
    """Kinds with their own time a step, share, number a step and longest names, as Markdown."""
    rows = collections.defaultdict(list)
    for op in ops:
        rows[op.kind].append(op)
    total = sum(op.own_us for op in ops)
    lines = [
        "| kind | ms a step | share | operations a step | most of it |",
        "|---|---|---|---|---|",
    ]
    for kind, found in sorted(rows.items(), key=lambda row: -_own(row[1])):
        names: dict[str, float] = collections.defaultdict(float)
        for op in found:
            names[f"`{op.name}`"] += op.own_us
        longest = sorted(names.items(), key=lambda item: -item[1])[:3]
        words = ", ".join(f"{name} {us / _own(found):.0%}" for name, us in longest if us)
        lines.append(
            f"| {kind} | {_own(found) / steps / 1e3:,.2f} | {_own(found) / total:.1%} |"
            f" {len(found) / steps:,.0f} | {words} |"
        )
    wall, busy = span_us(ops) / 1e3, busy_us(ops) / 1e3
    lines.append(
        f"\n{steps} step{'s' if steps > 1 else ''} in {wall:,.1f} ms, in {busy / wall:.1%} of which"
        f" an operation ran; the table's times add up to {total / 1e3 / steps:,.2f} ms a step."
    )
    return "\n".join(lines) + "\n"


def programs(ops: Sequence[Op], steps: int) -> str:
    """Compiled programs with their share, as Markdown."""
    own: dict[str, float] = collections.defaultdict(float)
    for op in ops:
        own[op.program] += op.own_us
    total = sum(own.values())
    lines = ["| program | ms a step | share |", "|---|---|---|"]
    for name, us in sorted(own.items(), key=lambda item: -item[1])[:8]:
        lines.append(f"| `{name}` | {us / steps / 1e3:,.2f} | {us / total:.1%} |")
    return "\n".join(lines) + "\n"


def _own(ops: Iterable[Op]) -> float:
    return sum(op.own_us for op in ops)


_WIDTH, _LEFT, _LANE, _TOP = 1600, 110, 46, 64


def draw(ops: Sequence[Op], title: str, start_ms: float = 0.0, stop_ms: float = 0.0) -> Any:
    """A picture of the time between two moments: a lane a thread, a colour a kind.

    Args:
      ops: In order of time.
      title: Stands above.
      start_ms: From the first operation on.
      stop_ms: The same; 0 is the end of the trace.

    Returns:
      A PIL image.
    """
    from PIL import Image, ImageDraw, ImageFont

    zero = ops[0].start_us + 1e3 * start_ms
    length = 1e3 * (stop_ms - start_ms) if stop_ms else span_us(ops) - 1e3 * start_ms
    shown = [op for op in ops if 0 < op.start_us + op.dur_us - zero and op.start_us < zero + length]
    threads = sorted({op.thread for op in shown})
    kinds = [kind for kind in COLOURS if any(op.kind == kind for op in shown)]
    rows = -(-len(kinds) // 4)
    height = _TOP + _LANE * len(threads) + 40 + 26 * rows
    image = Image.new("RGB", (_WIDTH, height), "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(18)
    pen.text((10, 8), title, "black", ImageFont.load_default(22))
    per_px = length / (_WIDTH - _LEFT - 20)
    for lane, thread in enumerate(threads):
        y = _TOP + lane * _LANE
        pen.text((10, y + 8), f"thread {lane + 1}", "black", font)
        pen.rectangle((_LEFT, y, _WIDTH - 20, y + _LANE - 10), "#f2f2f2")
        for op in sorted((op for op in shown if op.thread == thread), key=lambda op: op.depth):
            left = (op.start_us - zero) / per_px
            right = left + op.dur_us / per_px
            box = (_LEFT + max(0, left), y, min(_WIDTH - 20, _LEFT + max(right, left + 1)))
            pen.rectangle((*box, y + _LANE - 10), COLOURS[op.kind])
    y = _TOP + _LANE * len(threads)
    for part in range(6):
        x = _LEFT + part * (_WIDTH - _LEFT - 20) / 5
        words = f"{part * length / 5e3:,.4g} ms"
        pen.text((x, y), words, "black", font, anchor="ra" if part == 5 else "la")
    for index, kind in enumerate(kinds):
        x, at = 10 + index % 4 * 390, y + 34 + index // 4 * 26
        pen.rectangle((x, at + 3, x + 16, at + 19), COLOURS[kind])
        pen.text((x + 24, at), kind, "black", font)
    return image


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the tables and writes the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trace", type=Path, help="a .trace.json.gz, or a folder that holds some")
    parser.add_argument("--program", default="", help="only programs with this in their names")
    parser.add_argument("--steps", type=int, default=0, help="of the trace, where none are marked")
    parser.add_argument("--least", action="store_true", help="leave out what others took away")
    parser.add_argument("--png", type=Path, help="where the picture goes")
    parser.add_argument("--title", default="", help="above the picture")
    parser.add_argument("--from_ms", type=float, default=0.0, help="where the picture begins")
    parser.add_argument("--to_ms", type=float, default=0.0, help="where it ends; 0 is the end")
    flags = parser.parse_args(argv)
    try:
        trace = read_trace(flags.trace)
        ops = [op for op in operations(trace) if flags.program in op.program]
        if not ops:
            raise ValueError(f"{flags.trace} has no operations of compiled programs.")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    steps = flags.steps or num_steps(trace)
    counted = at_least(ops) if flags.least else ops
    print(table(counted, steps))
    print(programs(counted, steps))
    if flags.png:
        flags.png.parent.mkdir(parents=True, exist_ok=True)
        shown = (ops, flags.from_ms, flags.to_ms)
        if flags.least:  # Threads and gaps are those of a machine that does other work.
            shown = (end_to_end(between(counted, flags.from_ms, flags.to_ms)), 0.0, 0.0)
        image = draw(shown[0], flags.title or str(flags.trace), *shown[1:])
        # Few colours: a small file.
        partial = flags.png.with_name(f".{flags.png.name}.partial")
        image.quantize(32).save(partial, "PNG", optimize=True)
        partial.replace(flags.png)
    return 0


if __name__ == "__main__":
    sys.exit(main())

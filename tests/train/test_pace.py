"""Rates by hand, and memory where devices count it."""

import types

import pytest

from poet.train import goodput, pace

WORK = {"tokens": {"short": 100, "long": 300}, "flops": {"short": 2e12, "long": 6e12}}


def paces(monkeypatch, times, work):
    """A `Pace` on a clock that shows these times, ten seconds of which something else took."""
    clock = iter(times)
    monkeypatch.setattr(pace.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(pace, "memory", lambda: {"host_memory_gib": 1.5})
    spent = goodput.Goodput.__new__(goodput.Goodput)
    spent._seconds = {"eval": 3.0}
    found = pace.Pace(work, spent)
    assert found.row(10, 1.0) == {"host_memory_gib": 1.5}
    spent._seconds = {"eval": 9.0, "sample": 4.0}
    for group in ("short", "long", "short"):
        found.add(group)
    return found.row(13, 2.0)


def test_rates_leave_out_the_seconds_of_something_else(monkeypatch):
    # 30 seconds, of which evaluating took 6 and sampling 4: 20 for 3 steps of 500 tokens in all.
    row = paces(monkeypatch, [100.0, 130.0], pace.Work(**WORK, peak_flops=2e12))
    assert row == pytest.approx(
        {
            "host_memory_gib": 1.5,
            "steps_per_second": 0.15,
            "data_wait_share": 0.05,
            "tokens_per_second": 25.0,
            "model_tflops_per_second": 0.5,
            "mfu": 0.25,
        }
    )


def test_without_a_peak_there_is_no_mfu_and_without_work_no_tokens(monkeypatch):
    row = paces(monkeypatch, [0.0, 20.0], pace.Work(**WORK))
    assert "mfu" not in row and row["tokens_per_second"] == 50.0
    assert "tokens_per_second" not in paces(monkeypatch, [0.0, 20.0], None)


def test_memory_is_that_of_the_fullest_device(monkeypatch):
    def device(**stats):
        return types.SimpleNamespace(memory_stats=lambda: stats or None)

    full = device(bytes_in_use=3 * 2**30, peak_bytes_in_use=5 * 2**30)
    less = device(bytes_in_use=2**30, peak_bytes_in_use=6 * 2**30)
    monkeypatch.setattr(pace.jax, "local_devices", lambda: [less, full, device()])
    found = pace.memory()
    assert (found["device_memory_gib"], found["device_memory_peak_gib"]) == (3.0, 6.0)
    monkeypatch.setattr(pace.jax, "local_devices", lambda: [device()])
    assert set(pace.memory()) == {"host_memory_gib"} and found["host_memory_gib"] > 0.05

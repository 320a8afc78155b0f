"""Seconds that made no steps, by hand."""

import pytest

from poet.train import goodput


def test_seconds_by_part(monkeypatch):
    times = iter([0.0, 1.0, 3.0, 5.0, 5.5, 7.0, 7.5, 10.0])
    monkeypatch.setattr(goodput.time, "monotonic", lambda: next(times))
    found = goodput.Goodput()
    with found.counting("restore"):
        pass
    for _ in range(2):
        with found.counting("save"):
            pass
    assert found.paused_s == 3.0
    row = found.row(data_wait_s=1.0, num_lost_steps=4)
    assert row == {
        "restore_s": 2.0, "compile_s": 0.0, "save_s": 1.0, "eval_s": 0.0, "sample_s": 0.0,
        "data_wait_s": 1.0, "total_s": 10.0, "goodput": pytest.approx(0.6), "num_lost_steps": 4,
    }  # fmt: skip

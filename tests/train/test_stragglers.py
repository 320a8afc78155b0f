"""Slow hosts are named: by hand, and with two real processes."""

import socket

import jax
import numpy as np
import pytest
import real_processes
import toy_program

from poet.train import loop, metrics, stragglers

HOSTS = ["a", "b", "c", "d"]


def table(own_s, device_s=(0.004,) * 4):
    """Four hosts whose steps take 100 ms."""
    return np.stack([np.full(4, 0.1), np.array(own_s), np.array(device_s)], axis=1)


def test_the_host_that_makes_the_others_wait_is_named():
    row, slow = stragglers.row_of(HOSTS, table([0.02, 0.02, 0.09, 0.03]), 1.2)
    assert [one.in_words() for one in slow] == [
        "process 2 on c is slow: 90 ms a step for its own part (batch and Python), the median of"
        " the others is 20 ms."
    ]
    assert row == pytest.approx(
        {
            "step_s": 0.1,
            "host_s_median": 0.025,
            "host_s_max": 0.09,
            "host_s_max_process": 2,
            "host_s_max_host": "c",
            "device_s_median": 0.004,
            "device_s_max": 0.004,
            "device_s_max_process": 0,
            "device_s_max_host": "a",
            "num_slow": 1,
        }
    )


def test_a_slow_device_is_named_and_small_differences_are_not():
    """40 ms of 100 are hidden behind the devices; a tenth is within the factor."""
    found = stragglers.row_of(
        HOSTS, table([0.001, 0.001, 0.001, 0.04], [0.004, 0.0055, 0.0044, 0.004]), 1.2
    )
    (slow,) = found[1]
    assert (slow.process, slow.host) == (1, "b")
    assert "5.5 ms for a fixed product on its slowest device, the median of the others is 4 ms" in (
        slow.in_words()
    )


@pytest.fixture
def two(monkeypatch):
    """This process is one of two; the other one, which is played, has four times its speed."""

    def gather(host, seconds):
        assert host == socket.gethostname() and 0 < seconds[1] <= seconds[0]
        return [host, "other"], np.array([[0.1, 0.08, 0.004], [0.1, 0.02, 0.004]])

    monkeypatch.setattr(stragglers, "gather", gather)
    monkeypatch.setattr(stragglers, "product_s", lambda: 0.004)
    monkeypatch.setattr(stragglers.Stragglers, "is_due", lambda self, step: step % 10 == 5)


def test_the_loop_writes_and_says_it(tmp_path, two, capsys):
    settings = toy_program.config(tmp_path, 20, straggler_period=10)
    loop.run(toy_program.make(20), settings)
    rows = [row for row in metrics.read_metrics(tmp_path) if row["kind"] == stragglers.KIND]
    assert [(row["step"], row["host_s_max_host"]) for row in rows] == [
        (5, socket.gethostname()),
        (15, socket.gethostname()),
    ]
    said = capsys.readouterr().err
    assert f"WARNING at step 15: process 0 on {socket.gethostname()} is slow: 80 ms a step" in said


def test_nothing_is_compared_alone_or_unasked(monkeypatch):
    assert not stragglers.Stragglers(5, 1.2).is_due(10)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert [step for step in range(1, 11) if stragglers.Stragglers(5, 1.2).is_due(step)] == [5, 10]
    assert not stragglers.Stragglers(0, 1.2).is_due(10)


def test_own_time_is_what_is_not_waited(monkeypatch):
    """Steps of 5 s and 2 s, of which 4 s and 0 s were waited; one that compiled is left out."""
    times = iter([0.0, 1.0, 5.0, 5.0, 5.0, 7.0, 7.0, 50.0])
    monkeypatch.setattr(stragglers.time, "monotonic", lambda: next(times))
    hosts = stragglers.Stragglers(5, 1.2)
    with hosts.waiting():
        pass
    hosts.end_step()
    hosts.end_step()
    hosts.leave_out()
    hosts.end_step()
    monkeypatch.undo()
    monkeypatch.setattr(stragglers, "product_s", lambda: 0.5)
    monkeypatch.setattr(
        stragglers, "gather", lambda host, seconds: (["a", "b"], np.array([seconds] * 2))
    )
    row, slow = hosts.compare()
    assert (row["step_s"], row["host_s_max"], row["device_s_max"]) == (3.5, 1.5, 0.5)
    assert slow == []


def test_a_product_takes_time():
    assert 0 < stragglers.product_s() < 5


def test_a_factor_that_names_everyone_is_refused():
    with pytest.raises(ValueError, match="straggler_factor=1.0 must be above 1"):
        loop.LoopConfig(model_dir="somewhere", num_steps=1, straggler_factor=1.0)


CHILD = """
import sys, time
import jax
import numpy as np
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from jax.experimental import multihost_utils
from poet.train import stragglers
hosts = stragglers.Stragglers(10, 2.0)
for step in range(1, 11):
    time.sleep(0.2 if jax.process_index() == 1 else 0.01)
    with hosts.waiting():
        multihost_utils.process_allgather(np.asarray(step))
    if step == 1:
        hosts.leave_out()
    if hosts.is_due(step):
        row, slow = hosts.compare()
    hosts.end_step()
print(row["host_s_max_process"], row["step_s"] > 0.15, [one.in_words() for one in slow])
"""


@pytest.mark.slow
def test_of_two_processes_the_slow_one_is_named_by_both():
    said = real_processes.run_two(CHILD)
    for text in said:
        last = text.splitlines()[-1]
        assert last.startswith("1 True ["), text
        assert f"process 1 on {socket.gethostname()} is slow: " in last

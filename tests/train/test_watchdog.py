"""A process that hangs ends, one that works does not."""

import faulthandler
import subprocess
import sys

import pytest
import toy_program

from poet.train import loop
from poet.train.watchdog import Watchdog

PROGRAM = """
import time
from poet.train.watchdog import Watchdog

def stands_still():
    time.sleep(60)

with Watchdog(0.5 / 60) as watchdog:
    for _ in range(8):
        time.sleep(0.2)
        watchdog.alive()
    print("alive", flush=True)
    stands_still()
"""


def test_a_process_that_hangs_ends_with_its_stacks():
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 1
    assert ended.stdout == "alive\n", "1.6 s of short sleeps are no half second without a sign"
    assert "Timeout" in ended.stderr and "in stands_still" in ended.stderr


def test_the_loop_says_that_it_is_alive(tmp_path, monkeypatch):
    armed, ended = [], []
    monkeypatch.setattr(
        faulthandler, "dump_traceback_later", lambda seconds, **more: armed.append((seconds, more))
    )
    monkeypatch.setattr(faulthandler, "cancel_dump_traceback_later", lambda: ended.append(True))
    monkeypatch.setattr("poet.train.watchdog._REARM_S", 0.0)
    loop.run(toy_program.make(6), toy_program.config(tmp_path, 6, stall_minutes=5.0))
    assert len(armed) == 1 + 6 and ended == [True]
    assert armed[0][0] == 300.0 and armed[0][1]["exit"] is True


def test_without_minutes_nothing_is_armed(monkeypatch):
    monkeypatch.setattr(faulthandler, "dump_traceback_later", None)
    with Watchdog(0.0) as watchdog:
        watchdog.alive()


def test_refusals():
    with pytest.raises(ValueError, match="stall_minutes=-1.0 must be 0"):
        Watchdog(-1.0)
    with pytest.raises(ValueError, match="stall_minutes=nan must be 0"):
        Watchdog(float("nan"))

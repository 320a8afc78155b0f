"""Stages run as processes, are remembered, and continue after a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from poet.demo import runner, scores, sizes
from poet.demo.stages import Stage, stages


@pytest.fixture
def fake_cli(monkeypatch):
    """Runs python code instead of a poet command: argv is ("-c", code)."""

    def start(stage, log):
        return subprocess.Popen([sys.executable, *stage.argv])

    monkeypatch.setattr(runner, "_start", start)


def stage(code):
    return Stage(name="one", title="One", argv=("-c", code))


def test_a_finished_stage_is_not_run_again(fake_cli, tmp_path):
    mark = tmp_path / "mark"
    once = stage(f"open({str(mark)!r}, 'a').write('x')")
    first = runner.run_stage(once, tmp_path)
    again = runner.run_stage(once, tmp_path)
    assert first.is_finished and again.is_finished and mark.read_text() == "x"
    assert 0 < first.seconds == again.seconds < 60 and first.peak_bytes > 2**20


def test_a_failing_stage_names_its_log_and_adds_up_its_time(fake_cli, tmp_path):
    with pytest.raises(runner.StageFailed, match="exit code 3") as failure:
        runner.run_stage(stage("raise SystemExit(3)"), tmp_path)
    assert failure.value.exit_code == 3
    before = runner.read_record(tmp_path / "stages" / "one.json")
    assert not before.is_finished
    after = runner.run_stage(stage("import time; time.sleep(0.2)"), tmp_path)
    assert after.is_finished and after.seconds > before.seconds + 0.2


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_a_stage_dies_with_a_killed_demo(tmp_path):
    mark = tmp_path / "alive"
    code = f"""
import pathlib, subprocess, sys
from poet.demo import runner
child = subprocess.Popen(
    [sys.executable, "-c", "import os, time, pathlib as p;"
     "p.Path({str(mark)!r}).write_text(str(os.getpid())); time.sleep(60)"],
    preexec_fn=runner._die_with_parent)
child.wait()
"""
    parent = subprocess.Popen([sys.executable, "-c", code])
    wait_for(mark.exists)
    wait_for(mark.read_text)
    child = int(mark.read_text())
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    wait_for(lambda: not is_alive(child))


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def is_alive(pid):
    try:
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return status != "Z"


def test_two_demos_cannot_share_a_folder(tmp_path):
    with runner.only_one(tmp_path):
        with pytest.raises(ValueError, match="another demo is writing there"):
            with runner.only_one(tmp_path):
                pass
    with runner.only_one(tmp_path):
        pass


def test_a_folder_of_other_settings_is_refused(tmp_path):
    scores.claim_folder(tmp_path, sizes.QUICK, seed=0)
    scores.claim_folder(tmp_path, sizes.QUICK, seed=0)
    with pytest.raises(ValueError, match="seed 0 -> 1"):
        scores.claim_folder(tmp_path, sizes.QUICK, seed=1)


def test_scores_gain_time_and_memory(tmp_path):
    (tmp_path / "evaluation").mkdir()
    score = {"value": 0.5, "clips": 4, "low": 0.1, "high": 0.9}
    (tmp_path / "evaluation" / "scores.json").write_text(json.dumps({"shape_accuracy": score}))
    records = {
        "a": runner.StageRecord(command="poet a", seconds=2.0, peak_bytes=2**30),
        "b": runner.StageRecord(command="poet b", seconds=3.5, peak_bytes=2**29),
    }
    found = scores.write_scores(tmp_path, records)
    assert found["shape_accuracy"] == score
    assert found["total_seconds"]["value"] == 5.5 and found["peak_gib"]["value"] == 1.0
    assert json.loads((tmp_path / "scores.json").read_text()) == found
    assert "shape_accuracy" in scores.table(found)


def test_report_of_an_unfinished_demo_is_refused(tmp_path):
    todo = stages(sizes.QUICK, tmp_path)
    with pytest.raises(ValueError, match="render, visual_tokenizer"):
        runner.read_records(todo, tmp_path)


def test_stage_names_differ_and_commands_can_be_typed(tmp_path):
    todo = stages(sizes.QUICK, tmp_path)
    assert len({one.name for one in todo}) == len(todo)
    assert todo[0].command.startswith("poet render --out=")

"""Real processes, joined by jax.distributed, train as one process with as many devices does."""

import shutil
import signal
import sys
import time

import gin
import jax
import numpy as np
import pytest
import real_processes

from poet.main import train as train_command
from poet.train import checkpoint, metrics

NUM_STEPS = 60
SETTINGS = [
    "--gin_file=gin/runs/tiny.gin",
    "--gin.MIXTURE_OR_TASK_NAME=poet_unconditional",
    f"--gin.TRAIN_STEPS={NUM_STEPS}",
    "--gin.SAVE_PERIOD=10",
    "--gin.LoopConfig.check_period=7",
    "--gin.LoopConfig.stall_minutes=20",
]


def start(folder, dataset, num_devices, *more):
    words = [sys.executable, "-m", "poet.main.train", *SETTINGS, f"--gin.MODEL_DIR={folder}"]
    return real_processes.start([*words, f"--gin.DATA_DIR={dataset}", *more], num_devices)


def start_joined(number, folder, dataset, *more):
    """So many processes of one job, each with one device."""
    address = real_processes.free_address()
    more = [f"--coordinator_address={address}", f"--process_count={number}", *more]
    return [start(folder, dataset, 1, *more, f"--process_index={i}") for i in range(number)]


def wait_for(processes):
    """What each of them said; none may take half an hour."""
    return [process.communicate(timeout=1800)[0] for process in processes]


def losses(folder):
    rows = metrics.read_metrics(folder)
    return {row["step"]: row["loss_nats"] for row in rows if row["kind"] == "train"}


@pytest.fixture(scope="module")
def one(tmp_path_factory, small_dataset):
    folder = tmp_path_factory.mktemp("one")
    process = start(folder, small_dataset, 2)
    (said,) = wait_for([process])
    assert process.returncode == 0, said
    return losses(folder)


@pytest.fixture
def clean_gin():
    yield
    gin.clear_config()


@pytest.mark.slow
@pytest.mark.timeout(4000)
@pytest.mark.parametrize("number", [2, 4])
def test_processes_train_as_one_with_two_devices(one, small_dataset, tmp_path, number):
    processes = start_joined(number, tmp_path, small_dataset)
    said = wait_for(processes)
    assert [process.returncode for process in processes] == [0] * number, said
    found = losses(tmp_path)
    assert list(found) == list(range(1, NUM_STEPS + 1))
    np.testing.assert_allclose(list(found.values()), list(one.values()), rtol=1e-5)
    assert ["Trained 60 steps" in text for text in said] == [True] + [False] * (number - 1)
    assert checkpoint.newest_step(tmp_path) == NUM_STEPS


def wait_for_a_checkpoint(processes, folder):
    deadline = time.monotonic() + 1800
    while not list((folder / "checkpoints").glob("[1-9]0")):
        assert time.monotonic() < deadline and processes[0].poll() is None
        time.sleep(0.05)


def kill_after_a_checkpoint(processes, folder):
    """Kills the last one, then the others, which would wait for it; returns the newest step."""
    wait_for_a_checkpoint(processes, folder)
    processes[-1].send_signal(signal.SIGKILL)
    time.sleep(0.2)
    for process in processes[:-1]:
        process.kill()
    for process in processes:
        process.communicate(timeout=60)
    restored = checkpoint.newest_step(folder)
    assert restored < NUM_STEPS
    return restored


@pytest.mark.slow
@pytest.mark.timeout(4000)
def test_a_job_that_lost_a_process_goes_on_as_one(one, small_dataset, tmp_path):
    restored = kill_after_a_checkpoint(start_joined(2, tmp_path, small_dataset), tmp_path)
    alone = start(tmp_path, small_dataset, 2)
    (said,) = wait_for([alone])
    assert alone.returncode == 0 and f"continuing from the checkpoint of step {restored}" in said
    found = losses(tmp_path)
    np.testing.assert_allclose(list(found.values()), list(one.values()), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(4000)
def test_four_that_lost_one_go_on_as_two_replicas(one, small_dataset, tmp_path):
    """Another number of processes and another mesh; one of the two reads the checkpoint."""
    restored = kill_after_a_checkpoint(start_joined(4, tmp_path, small_dataset), tmp_path)
    mesh = ["--gin.MeshConfig.replica=2", "--gin.MeshConfig.fsdp=1"]
    processes = start_joined(2, tmp_path, small_dataset, *mesh)
    said = wait_for(processes)
    assert [process.returncode for process in processes] == [0, 0], said
    assert f"continuing from the checkpoint of step {restored}" in said[0]
    found = losses(tmp_path)
    assert list(found) == list(range(1, NUM_STEPS + 1))
    np.testing.assert_allclose(list(found.values()), list(one.values()), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(4000)
def test_one_that_is_told_to_stop_takes_the_other_along(one, small_dataset, tmp_path):
    """Both save the same step and say so by their exit code; the job goes on from there."""
    processes = start_joined(2, tmp_path, small_dataset, "--exit_code_when_stopped=75")
    wait_for_a_checkpoint(processes, tmp_path)
    processes[1].send_signal(signal.SIGTERM)
    said = wait_for(processes)
    assert [process.returncode for process in processes] == [75, 75], said
    stopped = checkpoint.newest_step(tmp_path)
    assert 10 <= stopped < NUM_STEPS
    assert f"Stopped by SIGTERM; step {stopped} is saved" in said[0]
    processes = start_joined(2, tmp_path, small_dataset, "--exit_code_when_stopped=75")
    said = wait_for(processes)
    assert [process.returncode for process in processes] == [0, 0], said
    assert f"continuing from the checkpoint of step {stopped}" in said[0]
    found = losses(tmp_path)
    assert list(found) == list(range(1, NUM_STEPS + 1))
    np.testing.assert_allclose(list(found.values()), list(one.values()), rtol=1e-4)


AVERAGED = """
from __gin__ import dynamic_registration
from poet.train import lm
from poet.train import lm_program

lm.LMRun.updates = @lm_program.Updates()
"""


@pytest.mark.slow
@pytest.mark.timeout(4000)
def test_hosts_that_differ_in_one_setting_both_refuse(small_dataset, tmp_path):
    """The dataset may lie elsewhere; another decay of the average may not be."""
    shutil.copytree(small_dataset, tmp_path / "elsewhere")
    joined = [f"--coordinator_address={real_processes.free_address()}", "--process_count=2"]
    processes = []
    for number, dataset in enumerate((small_dataset, tmp_path / "elsewhere")):
        file = tmp_path / f"host_{number}.gin"
        file.write_text(AVERAGED + f"lm_program.Updates.ema_decay = 0.9{number}\n")
        more = [*joined, f"--process_index={number}", f"--gin_file={file}"]
        processes.append(start(tmp_path / "model", dataset, 1, *more))
    said = wait_for(processes)
    assert [process.returncode for process in processes] == [2, 2], said
    for text in said:
        assert "but these differ from process 0: updates (process 1)." in text
        assert "updates.ema_decay is 0.9 on process 0 and 0.91 on process 1." in text
    assert not (tmp_path / "model").exists()


SPOILED = """
import jax
import numpy as np
from poet.data.batches import AgdBatches

batch_at = AgdBatches.batch_at

def spoiled(self, step):
    group, batch = batch_at(self, step)
    if step in (1, 3, 11) and jax.process_index() == 1:
        batch["decoder_loss_weights"] = np.full_like(batch["decoder_loss_weights"], np.nan)
    return group, batch

AgdBatches.batch_at = spoiled
"""


@pytest.mark.slow
@pytest.mark.timeout(4000)
def test_what_one_host_spoils_all_leave_out_and_all_stop(small_dataset, tmp_path):
    """Two bad batches, which may be, and a third, which may not."""
    (tmp_path / "spoiled.py").write_text(SPOILED)
    modules = ("tasks.paper", "tasks.mixtures", str(tmp_path / "spoiled.py"))
    more = [f"--gin.TASK_MODULES={modules}", "--gin.LoopConfig.max_skips=2"]
    processes = start_joined(2, tmp_path / "model", small_dataset, *more)
    said = wait_for(processes)
    assert [process.returncode for process in processes] == [2, 2], said
    for number, text in enumerate(said):
        assert "at step 12 " in text and "with it the updates of 3 of the last 1,000 steps" in text
        assert f"step_12_process_{number}.npz" in text
        assert "The last good checkpoint is step 10" in text
    skipped = [r for r in metrics.read_metrics(tmp_path / "model") if r["kind"] == "skipped"]
    assert [row["step"] for row in skipped] == [2, 4, 12]
    kept = {path.name for path in (tmp_path / "model" / "non_finite").iterdir()}
    assert kept == {f"step_{step}_process_{p}.npz" for step in (2, 4, 12) for p in (0, 1)}


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--multihost", "--process_count=2"], "--multihost asks the cluster for everything"),
        (["--process_count=2", "--process_index=0"], "got None, 2 and 0"),
        (["--coordinator_address=a:1", "--process_count=2", "--process_index=2"], "got a:1, 2"),
    ],
)
def test_flags_that_do_not_fit_are_refused(flags, says, capsys):
    assert train_command.main([*SETTINGS, *flags]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1


@pytest.mark.parametrize(("flags", "code"), [([], 0), (["--exit_code_when_stopped=75"], 75)])
def test_a_scheduler_can_tell_a_stopped_run_from_a_finished_one(
    flags, code, tmp_path, monkeypatch, clean_gin
):
    from poet.train import lm, loop

    def stop(*run):
        raise loop.Stopped(3)

    monkeypatch.setattr(lm, "train", stop)
    folders = [f"--gin.MODEL_DIR={tmp_path}", f"--gin.DATA_DIR={tmp_path}"]
    assert train_command.main([*SETTINGS, *folders, *flags]) == code


def test_a_coordinator_that_does_not_answer_may_be_asked_again(monkeypatch):
    def fail(*address):
        raise RuntimeError("no answer from the coordinator")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    joined = ["--coordinator_address=a:1", "--process_count=2", "--process_index=1"]
    # A text is said on stderr, with exit code 1: schedulers do not start again after 2.
    with pytest.raises(SystemExit, match="could not be joined through a:1: no answer"):
        train_command.main([*SETTINGS, *joined])


def test_a_cluster_that_jax_does_not_know_is_a_mistake(monkeypatch, capsys):
    def fail():
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    assert train_command.main([*SETTINGS, "--multihost"]) == 2
    said = capsys.readouterr().err
    assert "through the cluster: coordinator_address should" in said and said.count("\n") == 1

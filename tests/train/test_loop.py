"""The loop on a toy program: resume, signals, bad losses, files."""

import dataclasses
import math
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import toy_program

from poet.train import checkpoint, late_measures, loop, metrics, pace

ROOT = pathlib.Path(__file__).parents[2]
NUM_STEPS = 60


def run(folder, num_steps=NUM_STEPS, **changes):
    return loop.run(toy_program.make(num_steps), toy_program.config(folder, num_steps, **changes))


def assert_same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def rows_without_time(folder):
    rows = [row for row in metrics.read_metrics(folder) if row["kind"] != "goodput"]
    of_time = {"steps_per_second", "data_wait_share", "host_memory_gib"}
    return [{k: v for k, v in row.items() if k not in of_time} for row in rows]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    return run(folder), folder


def start(folder, num_steps, pause_s):
    command = [sys.executable, toy_program.__file__, str(folder), str(num_steps), str(pause_s)]
    env = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "PATH": "/usr/bin:/bin"}
    # The bits of a result depend on how it is compiled: as in this process.
    env["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "")
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(condition, process, seconds=60):
    for _ in range(int(seconds / 0.01)):
        if condition() or process.poll() is not None:
            return
        time.sleep(0.01)
    raise AssertionError("waited too long")


def test_restart_in_one_process_is_bit_equal(tmp_path, undisturbed):
    stopped_at = toy_program.make(NUM_STEPS, bad_step=47)
    with pytest.raises(late_measures.NonFiniteLossError):
        loop.run(stopped_at, toy_program.config(tmp_path, NUM_STEPS))
    assert checkpoint.newest_step(tmp_path) == 40
    want, folder = undisturbed
    assert_same(run(tmp_path), want)
    assert rows_without_time(tmp_path) == rows_without_time(folder)
    # Step 45 had its row, and had to be made again after the checkpoint of step 40.
    goodput = [row for row in metrics.read_metrics(tmp_path) if row["kind"] == "goodput"]
    assert [(row["step"], row["num_lost_steps"]) for row in goodput] == [
        *((step, 0) for step in (10, 20, 30, 40)),
        *((step, 5) for step in (50, 60)),
    ]
    assert all(0 < row["goodput"] < 1 and row["compile_s"] > 0 for row in goodput)


@pytest.mark.parametrize("seed", [0])
def test_sigkill_anywhere_ends_the_same(tmp_path, undisturbed, seed):
    draw = random.Random(seed)
    # The first kill comes while checkpoint 10, 20 or 30 may be half-way to the disk.
    for first_seen in (10, 30):
        process = start(tmp_path, NUM_STEPS, 0.03)
        folder = tmp_path / checkpoint.FOLDER
        wait_for(lambda seen=first_seen, at=folder: any(at.glob(f"{seen}*")), process)
        time.sleep(draw.random() * 0.3)
        process.kill()
        process.communicate()
    out, _ = start(tmp_path, NUM_STEPS, 0.0).communicate(timeout=120)
    assert "finished" in out, out
    want, folder = undisturbed
    assert_same(checkpoint.load_params(tmp_path), want.params)
    assert rows_without_time(tmp_path) == rows_without_time(folder)


def test_sigterm_saves_and_exits_zero(tmp_path, undisturbed):
    process = start(tmp_path, NUM_STEPS, 0.05)
    wait_for(lambda: (tmp_path / metrics.FILE).exists(), process)
    time.sleep(1.0)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    assert "Stopped by SIGTERM" in out and "finished" not in out
    assert 0 < checkpoint.newest_step(tmp_path) < NUM_STEPS
    assert_same(run(tmp_path), undisturbed[0])


def signalled(at, folder, num_steps=NUM_STEPS):
    """A toy program that gets SIGTERM in step `at`, and its looks: the newest step on disk then."""
    program = toy_program.make(num_steps)
    kept = {}

    def step_for(group):
        def train_step(now, batch, key):
            if int(now.step) + 1 == at:
                signal.raise_signal(signal.SIGTERM)
            return program.step_for(group)(now, batch, key)

        return train_step

    def look(kind):
        def note(now, step):
            kept[kind, step] = checkpoint.newest_step(folder) if at == step else None
            return {"loss_nats": 1.0}

        return note

    changes = {"step_for": step_for, "evaluate": look("eval"), "sample": look("sample")}
    return dataclasses.replace(program, **changes), kept


def test_who_is_told_to_stop_neither_evaluates_nor_samples(tmp_path, undisturbed, capsys):
    program, looks = signalled(40, tmp_path)
    with pytest.raises(loop.Stopped):
        loop.run(program, toy_program.config(tmp_path, NUM_STEPS, sample_period=20))
    assert set(looks) == {("eval", 20), ("sample", 20)}
    assert checkpoint.newest_step(tmp_path) == 40
    assert "Stopped by SIGTERM; step 40 is saved." in capsys.readouterr().err
    assert_same(run(tmp_path), undisturbed[0])


def test_a_signal_with_the_last_step_saves_it_before_it_is_looked_at(tmp_path, capsys):
    program, looks = signalled(20, tmp_path, num_steps=20)
    final = loop.run(program, toy_program.config(tmp_path, 20, sample_period=10))
    assert int(final.step) == 20
    assert looks == {("sample", 10): None, ("eval", 20): 20, ("sample", 20): 20}
    assert "SIGTERM came with the last step, 20; it is saved." in capsys.readouterr().err


def test_non_finite_loss_names_step_and_last_good_checkpoint(tmp_path):
    with pytest.raises(
        late_measures.NonFiniteLossError, match=r"at step 28 .*up to 27.*checkpoint is step 20"
    ):
        loop.run(toy_program.make(60, bad_step=27), toy_program.config(tmp_path, 60))
    assert np.isfinite(checkpoint.load_params(tmp_path)["w"]).all()
    with np.load(tmp_path / "non_finite" / "step_28.npz") as batch:
        assert str(batch["group"]) in ("odd", "even") and np.isinf(batch["x"]).all()


def test_non_finite_loss_before_any_checkpoint(tmp_path):
    with pytest.raises(late_measures.NonFiniteLossError, match="There is no checkpoint yet"):
        loop.run(toy_program.make(60, bad_step=3), toy_program.config(tmp_path, 60))


def test_non_finite_parameters_are_never_saved(tmp_path):
    with pytest.raises(
        late_measures.NonFiniteLossError, match="parameters are not finite after step 10"
    ):
        loop.run(toy_program.make(20, bad_params=True), toy_program.config(tmp_path, 20))
    with pytest.raises(ValueError, match="holds no checkpoint"):
        checkpoint.newest_step(tmp_path)


def test_updates_that_are_not_finite_are_left_out_up_to_a_bound(tmp_path, capsys):
    """Steps 4, 8 and 18 have no update; the third within 15 steps is one too many."""
    program = toy_program.make(20, bad_step=(3, 7, 17), skips=True)
    allowed = {"max_skips": 2, "skip_window": 14}
    final = loop.run(program, toy_program.config(tmp_path / "wide", 20, **allowed))
    assert int(final.step) == 20 and np.isfinite(final.params["w"]).all()
    assert int(final.opt_state[1].count) == 17, "adam has seen 17 gradients"
    said = capsys.readouterr().err
    assert "loss_nats is nan at step 8 " in said and "was left out, 2 of the last 14 steps" in said
    rows = metrics.read_metrics(tmp_path / "wide")
    skipped = [row for row in rows if row["kind"] == "skipped"]
    assert [(row["step"], row["was"]) for row in skipped] == [(4, "nan"), (8, "nan"), (18, "nan")]
    train = [row for row in rows if row["kind"] == "train"]
    assert [row["num_skipped"] for row in train] == [1, 2, 2, 3]
    assert all(np.isfinite(row["loss_nats"]) for row in train)
    with np.load(tmp_path / "wide" / "non_finite" / "step_8.npz") as batch:
        assert np.isinf(batch["x"]).all()
    narrow = {"max_skips": 2, "skip_window": 15}
    with pytest.raises(
        late_measures.NonFiniteLossError,
        match=r"at step 18 .* updates of 3 of the last 15 steps were left out, more than"
        r" max_skips=2\. Its batch is in .*step_18.npz\. The last good checkpoint is step 10",
    ):
        loop.run(program, toy_program.config(tmp_path / "narrow", 20, **narrow))
    # The run that goes on knows of steps 4 and 8.
    with pytest.raises(late_measures.NonFiniteLossError, match="of 3 of the last 15 steps"):
        loop.run(program, toy_program.config(tmp_path / "narrow", 20, **narrow))


def test_a_program_that_cannot_leave_updates_out_stops(tmp_path):
    with pytest.raises(late_measures.NonFiniteLossError, match="at step 4 .*up to 3 were finite"):
        loop.run(toy_program.make(9, bad_step=3), toy_program.config(tmp_path, 9, max_skips=5))


def test_of_many_bad_batches_some_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(late_measures, "_MAX_BATCHES", 1)
    program = toy_program.make(9, bad_step=(3, 4, 5), skips=True)
    loop.run(program, toy_program.config(tmp_path, 9, max_skips=5))
    assert [path.name for path in (tmp_path / "non_finite").iterdir()] == ["step_4.npz"]


def test_a_finished_run_returns_its_state_at_once(undisturbed):
    want, folder = undisturbed
    before = (folder / metrics.FILE).read_bytes()
    assert_same(run(folder), want)
    assert (folder / metrics.FILE).read_bytes() == before
    assert int(want.extra["seen"]) == NUM_STEPS * 8


def test_batch_errors_reach_the_caller(tmp_path):
    program = toy_program.make(20)

    def broken(step):
        raise ValueError(f"no batch {step}")

    with pytest.raises(ValueError, match="no batch 0"):
        loop.run(dataclasses.replace(program, batch_at=broken), toy_program.config(tmp_path, 20))


@pytest.mark.parametrize("name", ["num_steps", "save_period", "log_period", "num_kept"])
def test_loop_settings_are_checked(name):
    settings = {"model_dir": "somewhere", "num_steps": 10} | {name: 0}
    with pytest.raises(ValueError, match=f"{name}=0 must be at least 1"):
        loop.LoopConfig(**settings)


def test_periods_may_be_left_out_but_not_negative():
    with pytest.raises(ValueError, match="check_period=-1 must be 0 or more"):
        loop.LoopConfig(model_dir="somewhere", num_steps=10, check_period=-1)


def test_a_bound_that_bounds_nothing_is_refused():
    with pytest.raises(ValueError, match="max_skips=10 must be less than skip_window=10"):
        loop.LoopConfig(model_dir="somewhere", num_steps=10, max_skips=10, skip_window=10)


def test_copies_are_compared_as_often_as_asked(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(loop.agreement, "check_replicas", lambda params: seen.append(set(params)))
    run(tmp_path, 20, check_period=6)
    assert seen == [{"w", "b"}] * 3


def test_metrics_are_complete(undisturbed):
    rows = metrics.read_metrics(undisturbed[1])
    train = [row for row in rows if row["kind"] == "train"]
    assert [row["step"] for row in train] == list(range(5, NUM_STEPS + 1, 5))
    assert {"loss_nats", "grad_norm", "loss/odd"} <= set().union(*train)
    assert [row["step"] for row in rows if row["kind"] == "eval"] == [20, 40, 60]


def test_notes_and_warnings_are_said_and_a_warning_only_once(tmp_path, capsys):
    program = dataclasses.replace(
        toy_program.make(30),
        note=lambda measures: f"norm {measures['grad_norm'] >= 0}",
        alarms=lambda step, row: {"high": f"norm {row['grad_norm'] >= 0}"} if step > 5 else {},
    )
    loop.run(program, toy_program.config(tmp_path, 30, log_period=5))
    said = capsys.readouterr()
    assert "WARNING at step 10: norm True" in said.err + said.out
    assert (said.err + said.out).count("WARNING") == 1
    assert ", norm True" in said.err + said.out


def test_rows_have_rates_memory_and_losses_by_task(tmp_path):
    work = pace.Work(tokens={"odd": 8, "even": 8}, flops={"odd": 1e6, "even": 1e6}, peak_flops=1e9)
    program = dataclasses.replace(
        toy_program.make(10),
        work=work,
        rate=lambda step: step / 100,
        task_at=lambda step: f"task_{step // 5}",
    )
    loop.run(program, toy_program.config(tmp_path, 10))
    first, last = (row for row in metrics.read_metrics(tmp_path) if row["kind"] == "train")
    assert (first["learning_rate"], last["learning_rate"]) == (0.04, 0.09)
    assert "loss/task_0" in first and "loss/task_1" in last and "loss/task_0" not in last
    assert {"grad_norm", "host_memory_gib"} <= set(first) and "mfu" not in first
    assert last["tokens_per_second"] == pytest.approx(8 * last["steps_per_second"], rel=1e-5)
    assert last["mfu"] == pytest.approx(1e-3 * last["steps_per_second"], rel=1e-5)


def test_samples_are_taken_when_due_and_change_nothing(tmp_path, undisturbed, capsys):
    picture = np.zeros((4, 4, 3), np.uint8)
    program = dataclasses.replace(
        toy_program.make(NUM_STEPS),
        sample=lambda state, step: {"token_accuracy": step / 100, "clip": picture},
    )
    changes = {"sample_period": 25, "profile_first": 30, "profile_steps": 2}
    assert_same(
        loop.run(program, toy_program.config(tmp_path, NUM_STEPS, **changes)), undisturbed[0]
    )
    rows = [row for row in metrics.read_metrics(tmp_path) if row["kind"] == "sample"]
    assert [(row["step"], row["token_accuracy"]) for row in rows] == [
        (25, 0.25), (50, 0.5), (60, 0.6),
    ]  # fmt: skip
    assert "step 25 sampled: token_accuracy 0.25" in "".join(capsys.readouterr())
    last = [row for row in metrics.read_metrics(tmp_path) if row["kind"] == "goodput"][-1]
    assert last["sample_s"] > 0 and last["profile_s"] > 0


def evaluated(losses):
    """A toy program whose held-out losses are given: step -> loss."""
    return dataclasses.replace(
        toy_program.make(max(losses)), evaluate=lambda state, step: {"loss_nats": losses[step]}
    )


def kept(folder):
    return sorted(int(path.name) for path in (folder / checkpoint.FOLDER).iterdir())


def test_the_best_checkpoint_is_kept_beside_the_newest(tmp_path):
    settings = {"eval_period": 8, "save_period": 10, "best_of": "loss_nats", "num_kept": 1}
    losses = {8: 3.0, 16: 2.0, 24: math.nan, 32: 2.5, 40: 2.25}
    loop.run(evaluated(losses), toy_program.config(tmp_path, 40, **settings))
    assert kept(tmp_path) == [16, 40]
    assert checkpoint.newest_step(tmp_path) == 40 and checkpoint.find_step(tmp_path, "best") == 16
    # A run that goes on knows what the best was.
    more = {48: 2.1, 50: 2.2}
    loop.run(evaluated(more), toy_program.config(tmp_path, 50, **settings))
    assert kept(tmp_path) == [16, 50]
    loop.run(evaluated({56: 1.0, 60: 2.2}), toy_program.config(tmp_path, 60, **settings))
    assert kept(tmp_path) == [56, 60] and checkpoint.best_step(tmp_path) == 56


def test_a_best_of_nothing_is_refused(tmp_path, undisturbed):
    with pytest.raises(ValueError, match="needs an eval_period above 0 and the name of a loss"):
        toy_program.config(tmp_path, 10, eval_period=0, best_of="loss_nats")
    with pytest.raises(ValueError, match="'loss' is nothing that the evaluation gives.*loss_nats"):
        loop.run(toy_program.make(20), toy_program.config(tmp_path, 20, best_of="loss"))
    with pytest.raises(ValueError, match="was not told to keep the best one"):
        checkpoint.find_step(undisturbed[1], "best")
    with pytest.raises(ValueError, match="no checkpoint of step 7; it has 50, 60. Take one"):
        checkpoint.find_step(undisturbed[1], "7")
    assert checkpoint.find_step(undisturbed[1], "") == 60

"""A disk without space: one sentence, the checkpoint before whole, and the next start goes on."""

import errno
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import real_processes
import toy_program
from orbax.checkpoint import CheckpointManager

from poet.main import commands
from poet.train import checkpoint, full_disk, loop, metrics

NUM_STEPS = 40
# What tensorstore says, in Orbax's thread.
TENSORSTORE = (
    "RESOURCE_EXHAUSTED: Error writing local file: Failed to write 113 bytes to file 12:"
    " No space left on device [os_error_code='28']"
)


def no_space():
    return OSError(errno.ENOSPC, "No space left on device")


def caused_by(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (no_space(), "No space left on device"),
        (OSError(errno.ENOSPC, "No space", "a/b"), "a/b: No space"),
        (OSError(errno.EDQUOT, "Quota exceeded"), "Quota exceeded"),
        (ValueError(TENSORSTORE), "No space left on device"),
        (caused_by(RuntimeError("save failed"), no_space()), "No space left on device"),
        (ExceptionGroup("two", [KeyError("a"), no_space()]), "No space left on device"),
        (FileNotFoundError(2, "No such file", "a/b"), ""),
        (caused_by(ValueError("a"), KeyError("b")), ""),
    ],
)
def test_a_full_disk_is_known_by_its_number_or_its_words(error, found):
    assert full_disk.reason(error) == found


def fill_at_a_row(monkeypatch):
    write = metrics.MetricsWriter.write

    def fail(self, step, kind, values):
        if step >= 25:
            raise no_space()
        write(self, step, kind, values)

    monkeypatch.setattr(metrics.MetricsWriter, "write", fail)


def fill_at_the_board(monkeypatch):
    from tensorboardX.event_file_writer import EventsWriter

    write = EventsWriter.write_event

    def fail(self, event):
        if event.step >= 25:
            raise no_space()
        return write(self, event)

    monkeypatch.setattr(EventsWriter, "write_event", fail)


def fill_at_a_save(monkeypatch):
    save = CheckpointManager.save

    def fail(self, step, **settings):
        if step >= 30:
            (self.directory / f"{step}.orbax-checkpoint-tmp" / "params").mkdir(parents=True)
            raise no_space()
        return save(self, step, **settings)

    monkeypatch.setattr(CheckpointManager, "save", fail)


def fill_behind_a_save(monkeypatch):
    """In the thread that makes a step whole: heard of at the save after it."""
    finish = CheckpointManager._finalize

    def fail(self, step, *others):
        if step >= 30:
            self._wait_for_checkpointers()
            (self.directory / str(step)).rename(self.directory / f"{step}.orbax-checkpoint-tmp")
            raise ValueError(TENSORSTORE)
        return finish(self, step, *others)

    monkeypatch.setattr(CheckpointManager, "_finalize", fail)


def fill_behind_the_last_save(monkeypatch):
    """Heard of only when the run closes its checkpoints."""
    fill_behind_a_save(monkeypatch)
    monkeypatch.setattr(toy_program, "config", lambda *args, at=toy_program.config: at(args[0], 30))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return loop.run(
        toy_program.make(NUM_STEPS),
        toy_program.config(tmp_path_factory.mktemp("undisturbed"), NUM_STEPS),
    )


@pytest.mark.parametrize(
    "fill",
    [
        fill_at_a_row,
        fill_at_the_board,
        fill_at_a_save,
        fill_behind_a_save,
        fill_behind_the_last_save,
    ],
)
def test_it_ends_with_one_sentence_and_the_next_start_goes_on(fill, tmp_path, undisturbed, capsys):
    program = toy_program.make(NUM_STEPS)
    with pytest.MonkeyPatch.context() as patch:
        fill(patch)
        settings = toy_program.config(tmp_path, NUM_STEPS)
        code = commands.run_command(lambda argv: int(loop.run(program, settings).step), [])
    assert code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"error: No space is left to write to {tmp_path} (No space left on")
    assert "; the last whole checkpoint is step 20. Free space there, or keep fewer" in said
    kept = {path.name for path in (tmp_path / checkpoint.FOLDER).iterdir()}
    assert kept == {"10", "20"}, "nothing is left of the step that did not fit"
    final = loop.run(program, toy_program.config(tmp_path, NUM_STEPS))
    assert "continuing from the checkpoint of step 20" in capsys.readouterr().err
    jax.tree.map(np.testing.assert_array_equal, final, undisturbed)


def test_without_a_checkpoint_it_says_so(tmp_path):
    with pytest.raises(full_disk.FullDiskError, match="; no checkpoint was whole yet. Free"):
        with full_disk.told(tmp_path):
            raise no_space()


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(KeyError):
        with full_disk.told(tmp_path):
            raise KeyError("a bug")


# Run in a mount namespace of its own: FOLDER is a filesystem of 600 KB, of which 200 are free.
SMALL = """
import pathlib, sys
import toy_program
from poet.main import commands
from poet.train import checkpoint, loop

folder = pathlib.Path(sys.argv[1])
stone = folder / "stone"
stone.write_bytes(bytes(400_000))

def run(argv):
    loop.run(toy_program.make(60), toy_program.config(folder / "model", 60))
    print("finished")

code = commands.run_command(run, [])
print("code", code, checkpoint.newest_step(folder / "model"), flush=True)
stone.unlink()
code = commands.run_command(run, [])
print("code", code, checkpoint.newest_step(folder / "model"), flush=True)
"""


@pytest.mark.slow
def test_on_a_disk_that_is_really_full(tmp_path):
    mount = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=600k none "$0" && exec "$@"']
    if not shutil.which("unshare") or subprocess.run([*mount, tmp_path, "true"]).returncode:
        pytest.skip("This system lets nobody mount a small filesystem.")
    command = [sys.executable, "-c", SMALL, str(tmp_path)]
    process = real_processes.start([*mount, str(tmp_path), *command])
    said = process.communicate(timeout=120)[0]
    lines = said.splitlines()
    (first, last) = [line.split() for line in lines if line.startswith("code ")]
    assert first[1] == "2" and 0 < int(first[2]) < 60, said
    told = [line for line in lines if line.startswith("error: ")]
    assert len(told) == 1 and f"the last whole checkpoint is step {first[2]}." in told[0], said
    assert f"continuing from the checkpoint of step {first[2]}" in said
    assert last == ["code", "0", "60"], said

"""Traces that were set and traces that somebody asked for, of the toy program."""

import gzip
import json

import pytest
import toy_program

from poet.train import goodput, loop, profiling

NUM_STEPS = 20


def run(folder, **changes):
    settings = toy_program.config(folder, NUM_STEPS, eval_period=0, save_period=20, **changes)
    return loop.run(toy_program.make(NUM_STEPS), settings)


def steps_in(folder):
    (path,) = folder.rglob("*.trace.json.gz")
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    return sorted({int(e["args"]["step_num"]) for e in events if e.get("name") == "train"})


def test_a_set_trace_has_its_steps_and_is_said(tmp_path, capsys):
    run(tmp_path, profile_first=4, profile_steps=3)
    assert steps_in(tmp_path / "profile_4") == [4, 5, 6]
    assert not list(tmp_path.glob(".profile*"))
    said = "".join(capsys.readouterr())
    assert f"the trace of the steps after step 4 is in {tmp_path / 'profile_4'}" in said


def test_a_file_asks_for_a_trace_and_is_taken_away(tmp_path):
    tmp_path.joinpath(profiling.REQUEST).write_text("2\n")
    run(tmp_path)
    assert steps_in(tmp_path / "profile_0") == [0, 1]
    assert not (tmp_path / profiling.REQUEST).exists()


class Tracer:
    """Stands for jax's profiler: writes a file when it stops."""

    ProfileOptions = type("ProfileOptions", (), {})

    def start_trace(self, folder, profiler_options):
        assert profiler_options.python_tracer_level == 0
        self.folder = folder

    def stop_trace(self):
        import pathlib

        pathlib.Path(self.folder).mkdir(parents=True)

    def StepTraceAnnotation(self, name, step_num):
        import contextlib

        return contextlib.nullcontext()


@pytest.fixture
def profiler(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(profiling.jax, "profiler", Tracer())
    monkeypatch.setattr(profiling, "_LOOK_S", 0.0)
    made = profiling.Profiler(tmp_path, 0, 0, said.append, goodput.Goodput())
    made.said = said
    return made


def step(profiler, number):
    profiler.before(number, {})
    profiler.after(number + 1, {})


def test_an_empty_file_asks_for_five_steps_and_nonsense_is_named(tmp_path, profiler):
    step(profiler, 0)
    (tmp_path / profiling.REQUEST).write_text("many")
    for number in range(1, 8):
        step(profiler, number)
    assert [path.name for path in tmp_path.iterdir()] == ["profile_1"]
    warning, where = profiler.said
    assert "asks for 'many' steps; a number from 1 to 1000" in warning and "profile_1" in where


def test_a_run_that_ends_first_writes_what_there_is(tmp_path, profiler):
    with profiler:
        (tmp_path / profiling.REQUEST).touch()
        step(profiler, 7)
        assert not (tmp_path / "profile_7").exists()
    assert (tmp_path / "profile_7").is_dir()


def test_a_second_trace_of_a_process_is_refused_in_words(tmp_path, profiler, monkeypatch):
    def busy(*args, **more):
        raise RuntimeError("Profile has already been started.")

    monkeypatch.setattr(profiling.jax.profiler, "start_trace", busy, raising=False)
    (tmp_path / profiling.REQUEST).touch()
    step(profiler, 3)
    assert profiler.said == ["WARNING: no trace of step 3: Profile has already been started."]

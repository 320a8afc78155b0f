"""Calls of an engine are timed by program; what compiles is left out where a program runs again."""

import json
import types

from poet.evals import decode_times
from poet.tokens import sequence, tasks
from poet.tokens.clip import ClipShape, SoundShape
from poet.tokens.vocabulary import Vocabulary

VOCABULARY = Vocabulary(num_visual=12, audio_levels=(5, 6), num_text=20)


class FakeEngine:
    """Frames of 3 x 4 tokens, two of them; nothing is decoded."""

    def __init__(self, schedule):
        self.facts = {"decoding": {"schedule": schedule, "slope": 0.0}}

    def task(self, name):
        return tasks.get(name)

    def plan(self, task):
        return sequence.plan(task, ClipShape(5, 24, 32), SoundShape(2, 4), 5, VOCABULARY)

    def generate(self, task_name, given, request_ids, sampling, place=0, **more):
        return types.SimpleNamespace(task_name=task_name, place=place, **more)


def test_calls_are_seen_and_passed_on():
    engine = FakeEngine("diagonal")
    with decode_times.watch(engine) as calls:
        made = engine.generate("text_to_video", {}, [0, 1], None, 3, with_likelihood=True)
    assert made.place == 3 and made.with_likelihood
    assert engine.generate.__func__ is FakeEngine.generate, "nobody watches any more"
    engine.generate("text_to_video", {}, [0], None)
    (call,) = calls
    assert call.pop("seconds") >= 0
    assert call == {"task": "text_to_video", "batch": 2, "passes": 9, "tokens": 24}


def row(task, batch, seconds):
    return {"task": task, "batch": batch, "passes": 9, "tokens": 24, "seconds": seconds}


def test_the_fastest_call_of_each_program_counts():
    calls = [row("a", 2, 5.0), row("b", 2, 4.0), row("a", 2, 1.0), row("a", 1, 7.0)]
    assert decode_times.fastest(calls) == [row("a", 2, 1.0), row("b", 2, 4.0), row("a", 1, 7.0)]


def test_a_run_that_goes_on_remembers(tmp_path):
    path, engine = tmp_path / "decoding.json", FakeEngine("diagonal")
    assert decode_times.remembered(path, engine, [row("a", 2, 5.0)]) == [row("a", 2, 5.0)]
    assert decode_times.remembered(path, engine, []) == [row("a", 2, 5.0)]
    assert decode_times.remembered(path, engine, [row("a", 2, 3.0)]) == [row("a", 2, 3.0)]
    # Another order of tokens starts anew.
    assert (
        decode_times.remembered(path, FakeEngine("raster"), [row("a", 2, 8.0)])[0]["seconds"] == 8
    )
    assert json.loads(path.read_text())["decoding"]["schedule"] == "raster"

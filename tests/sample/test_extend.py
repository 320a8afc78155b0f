"""Long clips, by an engine whose codes are the times that frames and samples show."""

from pathlib import Path

import numpy as np
import pytest

from poet.sample import extend, jobs, names
from poet.sample.engine import Engine
from poet.sample.requests import SamplingRequest
from poet.tokens import sequence, tasks
from poet.tokens.clip import ClipShape, SoundShape

CLIP = ClipShape(17, 8, 8)
RATE_HZ = 16_000
# The paper's rate, 50 frames a second: 2.125 s of picture hold 106 frames, 2.12 s.
SOUND = SoundShape.for_clip(CLIP, 1, 320, RATE_HZ)
# A frame as bright as its number and a sample as loud as its place: what is late can be seen.
LOUDEST = RATE_HZ * 20.0


class ClockEngine(Engine):
    """Pixels show the frame's number; generating goes on counting where the given frames end."""

    clip, sound, sample_rate_hz = CLIP, SOUND, RATE_HZ
    tasks = tuple(tasks.TASKS)

    def __init__(self):
        self.calls = []

    def task(self, name):
        return tasks.get(names.resolve(name, self.tasks))

    def encode_video(self, frames):
        first = np.round(255 * frames[:, 0, 0, 0, 0]).astype(int)
        return first[:, None, None, None] + np.zeros((1, 3, 1, 1), int)

    def decode_video(self, codes):
        numbers = codes[:, :1, :1, :1] + np.arange(17)[None, :, None, None]
        return np.broadcast_to(numbers[..., None], (len(codes), 17, 8, 8, 3)).astype(np.uint8)

    def encode_sound(self, samples):
        return np.round(samples[:, :1] * LOUDEST).astype(int)[:, :, None] + np.zeros(
            (1, 1, 106), int
        )

    def decode_sound(self, codes):
        """34,000 samples for 17 frames: the last 80 belong to no audio frame and are silent."""
        places = codes[:, 0, :1] + np.arange(34_000)[None]
        places[:, 33_920:] = 0
        return (places / LOUDEST).astype(np.float32)

    def generate(self, name, fields, numbers, sampling, place=0):
        self.calls.append((name, list(fields["prompts"]), place))
        self.negative = list(fields["negative_prompts"])
        return {key: fields[key] for key in ("visual", "audio") if key in fields}


def grown(seconds, later=(), has_sound=True):
    engine = ClockEngine()
    job = jobs.Job(
        task="text_to_video_with_sound",
        sampling=SamplingRequest(),
        out=Path("none"),
        seconds=seconds,
    )
    fields = {"visual": np.zeros((2, 5, 1, 1), int)}
    if has_sound:
        fields["audio"] = np.zeros((2, 1, 106), int)
    words = {"prompt": "a red circle", "later": later, "negative_prompt": "a square"}
    asks = [jobs.Ask(name=name, **(words if later else {})) for name in "ab"]
    return engine, extend.extend(engine, job, asks, fields, count=1)


def test_ten_seconds_keep_time():
    """Every frame shows its number, every sample its place: no drift at all."""
    engine, clips = grown(10.0)
    assert clips.frames.shape == (1, 80, 8, 8, 3) and clips.sound.shape == (1, 160_000)
    np.testing.assert_array_equal(clips.frames[0, :, 0, 0, 0], np.arange(80))
    heard = clips.sound[0] * LOUDEST
    # What the last round's codes do not reach is silent: 80 samples, 5 ms.
    np.testing.assert_allclose(heard[:159_000], np.arange(159_000), atol=0.5)
    assert len(engine.calls) == len(clips.rounds) - 1 == 8
    assert [place for _, _, place in engine.calls] == list(range(1, 9)), "rounds differ in draws"
    assert {name for name, _, _ in engine.calls} == {"audio_video_continuation_9"}


def test_shorter_ones_are_cut():
    engine, clips = grown(1.0)
    assert clips.frames.shape[1] == 8 and clips.sound.shape[1] == 16_000 and not engine.calls
    _, clips = grown(2.5)
    assert clips.frames.shape[1] == 20 and clips.sound.shape[1] == 40_000


def test_words_change_with_time():
    engine, _ = grown(5.0, ((3.0, "a blue one"),), has_sound=False)
    # Rounds begin to write at 2.125, 3.125 and 4.125 s.
    assert [prompts[0] for _, prompts, _ in engine.calls] == [
        "a red circle",
        "a blue one",
        "a blue one",
    ]
    assert {name for name, _, _ in engine.calls} == {"future_prediction_with_text"}
    assert engine.negative == ["a square", "a square"], "guidance leads away in every round"


def test_when_words_hold():
    ask = jobs.Ask(name="a", prompt="a clock shows 4: a red hand", later=((2, "x"), (4.5, "y")))
    found = [ask.prompt_at(second) for second in (0.0, 1.9, 2.0, 4.4, 9.0)]
    assert found == ["a clock shows 4: a red hand"] * 2 + ["x", "x", "y"]
    for later in (((2, "x"), (2, "y")), ((0, "x"),)):
        with pytest.raises(ValueError, match="times must be above 0 and rise"):
            jobs.Ask(name="a", later=later)


def test_the_paper_counts():
    """One latent second in and out (design, section 3): 9 frames and 56 audio frames, 8 and 50."""
    plan = sequence.plan(
        tasks.get("audio_video_continuation_9"), CLIP, SOUND, 1, sequence.Vocabulary()
    )
    counts = {(slot.kind, slot.is_output): slot.source[1] - slot.source[0] for slot in plan.slots}
    assert counts == {
        ("visual", False): 3,
        ("audio", False): 56,
        ("visual", True): 2,
        ("audio", True): 50,
    }
    assert extend.num_rounds(10.0, 8.0, 17, 8) == 8 and extend.num_rounds(2.0, 8.0, 17, 8) == 0


def test_refusals():
    engine, ask = ClockEngine(), jobs.Ask(name="a", prompt="x")

    def check(task, ask=ask, **more):
        job = jobs.Job(task=task, sampling=SamplingRequest(), out=Path("none"), seconds=4, **more)
        extend.check(engine, job, ask, tasks.get(task))

    with pytest.raises(ValueError, match="--seconds and --then do not go together yet"):
        check("text_to_video", then=("video_to_audio",))
    with pytest.raises(ValueError, match="'video_to_audio' makes no whole clip"):
        check("video_to_audio")
    changing = jobs.Ask(name="a", prompt="x", later=((2.0, "y"),))
    check("text_to_video", changing)
    with pytest.raises(ValueError, match="'audio_video_continuation_9', by which .* reads none"):
        check("text_to_video_with_sound", changing)
    engine.tasks = ("text_to_video", "future_prediction")
    check("text_to_video")
    with pytest.raises(ValueError, match="'future_prediction', by which this checkpoint makes"):
        check("text_to_video", changing)
    engine.tasks = ("text_to_video_with_sound", "audio_video_continuation")
    with pytest.raises(ValueError, match="grow by audio_video_continuation_9"):
        check("text_to_video_with_sound")

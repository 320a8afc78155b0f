"""How a job cuts its requests into batches; the commands' tests run real models."""

import types

import numpy as np
import pytest

from poet.media import video
from poet.sample import jobs
from poet.sample.engine import Engine
from poet.sample.requests import SamplingRequest
from poet.tokens import tasks


class CountingEngine(Engine):
    """Answers request n with codes of value n, and remembers the size of every call."""

    clip = types.SimpleNamespace(latent_frames=2, frames_per_token=4, frames_per_second=8.0)
    sample_rate_hz = 24_000
    facts = {"step": 1}

    def __init__(self):  # no model, so nothing of the parent's
        self.generated, self.decoded, self.heard = [], [], []

    def task(self, name):
        return tasks.get(name)

    def check_prompt(self, prompt):
        pass

    def generate(self, name, fields, numbers, sampling, place):
        self.generated.append((name, list(numbers)))
        rows = np.asarray(numbers)[:, None, None]
        if name == "video_to_audio":
            return {"audio": rows + 100}
        return {"visual": np.broadcast_to(rows[..., None], (len(numbers), 2, 4, 4))}

    def decode_video(self, codes):
        self.decoded.append(len(codes))
        levels = np.broadcast_to(codes[:, :1, :1, :1, None], (len(codes), 5, 32, 32, 3))
        return levels.astype(np.uint8) * 10

    def decode_sound(self, codes):
        self.heard.append(codes[:, 0, 0].tolist())
        return np.zeros((len(codes), 10_000), np.float32)


def test_requests_go_in_even_batches_and_are_decoded_together(tmp_path):
    engine = CountingEngine()
    job = jobs.Job(
        task="text_to_video",
        then=("video_to_audio",),
        sampling=SamplingRequest(),
        out=tmp_path,
        batch_size=4,
    )
    asks = [jobs.Ask(name=f"clip_{n}", number=n, prompt="a square") for n in range(5)]
    rows = jobs.run(engine, job, asks)
    # Not 4 and then 1 filled up to 4; the row that fills up is not decoded to pixels or sound.
    assert [numbers for name, numbers in engine.generated if name == "text_to_video"] == [
        [0, 1, 2],
        [3, 4, 4],
    ]
    assert engine.decoded == [3, 2]
    assert engine.heard == [[100, 101, 102], [103, 104]]
    assert [row["ids"]["visual"][0][0][0] for row in rows] == [0, 1, 2, 3, 4]
    assert all(row["has_sound"] and (tmp_path / row["file"]).exists() for row in rows)
    assert video.probe(tmp_path / rows[0]["file"]).sample_rate_hz == 24_000


@pytest.mark.parametrize(("name", "given"), [("inpainting", "masked"), ("audio_to_video", "audio")])
def test_tasks_that_requests_cannot_serve_are_refused(name, given, tmp_path):
    job = jobs.Job(task=name, then=(), sampling=SamplingRequest(), out=tmp_path, batch_size=1)
    ask = jobs.Ask(name="a", number=0, prompt="a square", media="a.mp4")
    with pytest.raises(ValueError, match=f"'{name}' is given {given}, which requests cannot name"):
        jobs.run(CountingEngine(), job, [ask])

"""How a job cuts its requests into batches; the commands' tests run real models."""

import dataclasses
import json

import numpy as np
import pytest

from poet.media import images, video, write
from poet.sample import jobs
from poet.sample.engine import Engine
from poet.sample.requests import SamplingRequest
from poet.tokens import tasks
from poet.tokens.clip import ClipShape


class CountingEngine(Engine):
    """Answers request n with codes of value n, and remembers the size of every call."""

    clip = ClipShape(5, 32, 32)
    sound = None
    tasks = tuple(tasks.TASKS)
    sample_rate_hz = 24_000
    facts = {"step": 1}

    def __init__(self):  # no model, so nothing of the parent's
        self.generated, self.decoded, self.heard = [], [], []

    def task(self, name):
        return tasks.get(name)

    def check_prompt(self, prompt):
        pass

    def generate(self, name, fields, numbers, sampling, place=0):
        self.generated.append((name, list(numbers)))
        rows = np.asarray(numbers)[:, None, None]
        if name == "video_to_audio":
            return {"audio": rows + 100}
        return {"visual": np.broadcast_to(rows[..., None], (len(numbers), 2, 4, 4))}

    def encode_video(self, frames):
        return np.zeros((len(frames), 2, 4, 4), int)

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


def job_of(tmp_path, task="text_to_video", **more):
    return jobs.Job(task=task, sampling=SamplingRequest(), out=tmp_path, **more)


def test_an_answer_is_kept_and_others_are_not_replaced(tmp_path):
    engine, ask = CountingEngine(), jobs.Ask(name="a", prompt="a square")
    first = jobs.run(engine, job_of(tmp_path), [ask])
    assert jobs.run(engine, job_of(tmp_path), [ask]) == first and len(engine.generated) == 1
    other = dataclasses.replace(ask, prompt="a circle")
    with pytest.raises(ValueError, match=r"a\.json is there already .* pass --overwrite"):
        jobs.run(engine, job_of(tmp_path), [other])
    rows = jobs.run(engine, job_of(tmp_path, overwrite=True), [other])
    assert rows[0]["prompt"] == "a circle"


@pytest.mark.parametrize("is_written", [False, True])
def test_a_run_that_was_killed_at_a_file_is_taken_up_again(tmp_path, monkeypatch, is_written):
    """Killed before the file of b was whole, or between it and its row; a is kept."""
    engine, job = CountingEngine(), job_of(tmp_path, batch_size=4)
    asks = [jobs.Ask(name=name, prompt="a square", number=n) for n, name in enumerate("abc")]
    whole = write.write_clip

    def killed(path, *args, **more):
        if is_written or path.stem != "b":
            whole(path, *args, **more)
        if path.stem == "b":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(write, "write_clip", killed)
        with pytest.raises(KeyboardInterrupt):
            jobs.run(engine, job, asks)
    assert (tmp_path / "b.mp4").exists() == is_written
    assert jobs.unanswered(engine, job, asks) == asks[1:]
    # Another request may not have its place, whatever is there of it.
    other = [asks[0], dataclasses.replace(asks[1], prompt="a circle"), asks[2]]
    with pytest.raises(ValueError, match=r"b\.json is there already .* pass --overwrite"):
        jobs.run(engine, job, other)
    done = []
    rows = jobs.run(engine, job, asks, done.append)
    # Two are left, in a batch of three as before.
    assert [numbers for _, numbers in engine.generated] == [[0, 1, 2], [1, 2, 2]]
    assert [row["ids"]["visual"][0][0][0] for row in rows] == [0, 1, 2] and done == [3]
    assert not any("begun" in row or "error" in row for row in rows)
    assert jobs.run(engine, job, asks) == rows and len(engine.generated) == 2


def test_the_same_clip_in_another_format_is_not_there_yet(tmp_path):
    ask = jobs.Ask(name="a", prompt="a square")
    jobs.run(CountingEngine(), job_of(tmp_path, file_name="x.mp4"), [ask])
    with pytest.raises(ValueError, match=r"x\.json is there already .* pass --overwrite"):
        jobs.run(CountingEngine(), job_of(tmp_path, file_name="x.gif"), [ask])
    jobs.run(CountingEngine(), job_of(tmp_path, file_name="x.gif", overwrite=True), [ask])
    assert (tmp_path / "x.gif").is_file()


def test_one_lost_answer_is_made_alone(tmp_path):
    engine, job = CountingEngine(), job_of(tmp_path, batch_size=2)
    asks = [jobs.Ask(name=name, prompt="a square", number=n) for n, name in enumerate("abcd")]
    rows = jobs.run(engine, job, asks)
    (tmp_path / "b.mp4").unlink()
    (tmp_path / "b.json").unlink()
    times = [(tmp_path / f"{name}.mp4").stat().st_mtime_ns for name in "acd"]
    assert jobs.run(engine, job, asks) == rows
    assert [numbers for _, numbers in engine.generated] == [[0, 1], [2, 3], [1, 1]]
    assert times == [(tmp_path / f"{name}.mp4").stat().st_mtime_ns for name in "acd"]


def test_files_that_no_run_made_are_not_replaced(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"a film of mine")
    with pytest.raises(ValueError, match=r"a\.mp4 is there already .* pass --overwrite"):
        jobs.run(CountingEngine(), job_of(tmp_path), [jobs.Ask(name="a", prompt="a square")])
    assert (tmp_path / "a.mp4").read_bytes() == b"a film of mine"


def test_hosts_that_share_a_folder_see_what_is_missing(tmp_path):
    engine, job = CountingEngine(), job_of(tmp_path, has_table=False)
    asks = [jobs.Ask(name=name, prompt="a square", number=n) for n, name in enumerate("ab")]
    assert jobs.unanswered(engine, job, asks) == asks
    jobs.run(engine, job, asks[:1])
    assert jobs.unanswered(engine, job, asks) == asks[1:]
    assert not (tmp_path / "samples.jsonl").exists()


def test_a_batch_goes_on_past_a_file_that_cannot_be_read(tmp_path):
    """Its row says why, it is tried again, and the row of another job is not needed for that."""
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    images.write_image(good, np.zeros((32, 32, 3), np.uint8))
    bad.write_bytes(b"no picture")
    asks = [
        jobs.Ask(name=path.stem, number=number, image=str(path))
        for number, path in enumerate([bad, good])
    ]
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="bad.png is not a readable image"):
        jobs.run(CountingEngine(), job_of(out, "image_to_video_without_text"), asks)
    job = job_of(out, "image_to_video_without_text", records_failures=True)
    rows = jobs.run(CountingEngine(), job, asks)
    assert "bad.png is not a readable image" in rows[0]["error"]
    assert not (out / "bad.mp4").exists()
    assert (out / rows[1]["file"]).exists() and rows[1]["notes"] == [f"{good}: 32 x 32"]
    table = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert [row["name"] for row in table] == ["bad", "good"]
    images.write_image(bad, np.zeros((32, 32, 3), np.uint8))
    assert "error" not in jobs.run(CountingEngine(), job, asks)[0]


def test_words_stand_for_the_task_that_fits(tmp_path):
    clip = tmp_path / "clip.mp4"
    write.write_video(clip, np.zeros((9, 32, 32, 3), np.uint8), 8)
    engine = CountingEngine()
    asks = [
        jobs.Ask(name="with", video=str(clip), prompt="a square"),
        jobs.Ask(name="without", video=str(clip), number=1),
    ]
    rows = jobs.run(engine, job_of(tmp_path / "out", "inpaint"), asks)
    assert [row["answered_by"] for row in rows] == ["inpainting_with_text", "inpainting"]


@pytest.mark.parametrize(
    ("task", "fields", "says"),
    [
        ("inpaint", {}, "needs a clip to start from"),
        ("image_to_video", {}, "needs a picture or clip to start from"),
        ("audio_to_video", {"prompt": "a"}, "needs sound, but request 'a' names none"),
        ("text_to_video", {"prompt": "a", "mask": "interpolation"}, "hides nothing"),
        ("inpaint", {"video": "v.mp4", "mask": "left"}, "regions are inpaint_central"),
        ("text_to_video", {"prompt": "a", "negative_prompt": "b"}, "--guidance above 1"),
        ("fly", {"prompt": "a"}, "was not trained for 'fly'; it was trained for text_to_image"),
        ("inpaint", {"video": "none.mp4"}, "none.mp4"),
    ],
)
def test_refusals(task, fields, says, tmp_path):
    out = tmp_path / "out"
    with pytest.raises((ValueError, OSError), match=says):
        jobs.run(CountingEngine(), job_of(out, task), [jobs.Ask(name="a", **fields)])
    assert not list(tmp_path.rglob("*.mp4"))


def test_rows_that_say_too_little_are_noted_too(tmp_path):
    """A request without words fails by itself in a batch, and the whole job otherwise."""
    asks = [
        jobs.Ask(name="silent", image="", number=0),
        jobs.Ask(name="told", prompt="a", number=1),
    ]
    asks[0] = dataclasses.replace(asks[0], mask="interpolation")
    with pytest.raises(ValueError, match="hides nothing"):
        jobs.run(CountingEngine(), job_of(tmp_path), asks)
    rows = jobs.run(CountingEngine(), job_of(tmp_path, records_failures=True), asks)
    assert "hides nothing" in rows[0]["error"] and (tmp_path / rows[1]["file"]).exists()


def test_what_decodes_is_part_of_the_request(tmp_path):
    """An answer by another order of tokens is another answer."""
    engine, ask = CountingEngine(), jobs.Ask(name="a", prompt="a square")
    jobs.run(engine, job_of(tmp_path), [ask])
    engine.facts = {"step": 1, "decoding": {"schedule": "diagonal"}}
    with pytest.raises(ValueError, match="is there already"):
        jobs.run(engine, job_of(tmp_path), [ask])


def test_a_gif_has_no_sound(tmp_path):
    job = job_of(tmp_path, then=("video_to_audio",), format="gif")
    (row,) = jobs.run(CountingEngine(), job, [jobs.Ask(name="a", prompt="a square")])
    assert row["file"] == "a.gif" and not row["has_sound"]

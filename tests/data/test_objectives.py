import numpy as np
import pytest

from poet.data import objectives
from poet.tokens import tasks, vocabulary
from poet.tokens.tasks import Part, Task


@pytest.fixture
def clip(make_records):
    """A clip with caption, sound, a hidden region, flow and depth."""
    return next(make_records(0, 1))


def test_needs_of_every_task():
    everything = {"caption", "audio", "video", "masked", "structure"}
    lacks = {
        "text_to_video": "audio masked structure",
        "text_to_image": "audio masked structure video",
        "image_to_video": "audio masked structure",
        "inpainting": "caption audio structure",
        "outpainting_with_text": "audio structure",
        "stylization": "audio masked",
        "stylization_with_first_frame": "audio masked",
        "audio_to_video": "caption masked structure",
        "video_to_audio": "caption masked structure",
        "audio_video_continuation": "caption masked structure",
        "text_to_video_with_sound": "masked structure",
        "unconditional": "caption audio masked structure",
        "future_prediction_13": "caption audio masked structure",
        "image_to_video_without_text": "caption audio masked structure",
    }
    for name, words in lacks.items():
        assert objectives.needs(tasks.get(name)) == everything - set(words.split()), name


def test_painting_asks_for_its_kind_of_region(pretrain):
    needs = {entry.task.name: entry.needs for entry, _ in pretrain}
    assert needs["inpainting"] == {"video", "masked", "inpainting"}
    assert needs["outpainting_with_text"] == {"caption", "video", "masked", "outpainting"}


def test_only_text_to_image_is_an_image_task():
    images = [name for name, task in tasks.TASKS.items() if objectives.is_image_task(task)]
    assert images == ["text_to_image"]


def test_fields_are_what_the_task_names(clip, text_tokenizer):
    for task in tasks.TASKS.values():
        fields = objectives.take_parts(clip, task, text_tokenizer)
        assert set(fields) == set(task.fields)
        for name in set(fields) - {"text_ids"}:
            got = fields[name]
            # Cut in time only.
            want = clip[name] if name == "audio" else clip[name][: got.shape[0]]
            np.testing.assert_array_equal(got, want)
    assert fields["audio"].shape == (2, 106)


def test_image_task_takes_frame_0_of_clips_and_stills(clip, text_tokenizer):
    task = tasks.get("text_to_image")
    still = {**clip, "visual": clip["visual"][:1]}
    for record in (clip, still):
        fields = objectives.take_parts(record, task, text_tokenizer)
        np.testing.assert_array_equal(fields["visual"], clip["visual"][:1])
        np.testing.assert_array_equal(fields["text_ids"], text_tokenizer.encode(clip["caption"]))


def test_audio_is_cut_in_time(clip):
    parts = (Part("audio", "audio", 0, 6),), (Part("visual", "visual"),)
    task = Task("starts_with_sound", vocabulary.AUDIO_TO_VIDEO, *parts)
    fields = objectives.take_parts(clip, task, None)
    np.testing.assert_array_equal(fields["audio"], clip["audio"][:, :6])


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("text_to_video", {"caption": " "}, "it has no caption"),
        ("video_to_audio", {"audio": np.zeros((2, 0), np.int32)}, "its audio ids are empty"),
        ("unconditional", {"visual": np.zeros((1, 2, 2), np.int32)}, "1 frames of at least 2"),
        ("future_prediction", {"visual": np.zeros((2, 2, 2), np.int32)}, "2 frames of at least 3"),
    ],
)
def test_refuses_records_that_do_not_fit(name, change, message, clip, text_tokenizer):
    with pytest.raises(ValueError, match=f"Record 'clip_0_0' does not fit.*{message}"):
        objectives.take_parts({**clip, **change}, tasks.get(name), text_tokenizer)


def test_refuses_a_field_that_no_record_has(clip):
    task = Task("depth", vocabulary.STYLE, (Part("visual", "depth"),), (Part("visual", "visual"),))
    with pytest.raises(ValueError, match="it has no field 'depth'"):
        objectives.take_parts(clip, task, None)

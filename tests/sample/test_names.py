import pytest

from poet.sample import names
from poet.tokens import tasks


def test_every_word_is_answered_and_every_answer_is_a_task():
    for word in names.WORDS:
        assert names.resolve(word, tasks.TASKS) in tasks.TASKS
    assert len(names.WORDS) == 12


@pytest.mark.parametrize(
    ("word", "given", "task"),
    [
        ("image_to_video", {"has_text": True}, "image_to_video"),
        ("image_to_video", {}, "image_to_video_without_text"),
        ("continue", {}, "future_prediction"),
        ("continue", {"has_text": True}, "future_prediction_with_text"),
        ("stylize", {"has_text": True}, "stylization"),
        ("stylize", {"has_text": True, "has_picture": True}, "stylization_with_first_frame"),
        ("continue_with_sound", {}, "audio_video_continuation_9"),
        ("outpainting", {"has_text": True}, "outpainting"),
    ],
)
def test_what_is_given_decides(word, given, task):
    assert names.resolve(word, tasks.TASKS, **given) == task


def test_what_was_not_trained_is_replaced_or_refused():
    assert names.resolve("inpaint", ["inpainting_with_text"]) == "inpainting_with_text"
    assert names.resolve("image_to_video", ["future_prediction_1"]) == "future_prediction_1"
    with pytest.raises(ValueError, match="trained for 'stylize'; it was trained for inpaint, m"):
        names.resolve("stylize", ["inpainting", "mine"])

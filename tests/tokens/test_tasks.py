import pytest

from poet.tokens import tasks, vocabulary
from poet.tokens.tasks import Part, Task


def test_the_six_tasks():
    assert list(tasks.TASKS) == [
        "text_to_video",
        "text_to_image",
        "image_to_video",
        "future_prediction",
        "unconditional",
        "video_to_audio",
    ]
    prompts = {name: task.prompt for name, task in tasks.TASKS.items()}
    assert prompts.pop("video_to_audio") == vocabulary.VIDEO_TO_AUDIO
    assert set(prompts.values()) == {vocabulary.VIDEO}, "one prompt a kind of output"


def test_what_tasks_read():
    assert tasks.get("image_to_video").fields == ("text_ids", "visual")
    assert tasks.get("video_to_audio").uses_audio
    assert not tasks.get("text_to_video").uses_audio
    texts = {name for name, task in tasks.TASKS.items() if task.has_text}
    assert texts == {"text_to_video", "text_to_image", "image_to_video"}


def test_unknown_task_lists_the_known_ones():
    with pytest.raises(ValueError, match="Unknown task 'text_to_vidoe'; choose one of .*uncond"):
        tasks.get("text_to_vidoe")


VISUAL = Part("visual", "visual")


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Part("smell", "visual"), "Part kind 'smell' is unknown"),
        (lambda: Part("visual", "visual", 2, 2), r"takes frames \[2, 2\), which is empty"),
        (lambda: Task("t", 3, (), (VISUAL,)), "prompt id 3; task prompts are 64 to 127"),
        (lambda: Task("t", 70, (VISUAL,), ()), r"has outputs \[\]; give one visual part"),
        (lambda: Task("t", 70, (), (VISUAL, VISUAL)), "give one visual part"),
        (lambda: Task("t", 70, (tasks.TEXT,) * 2, (VISUAL,)), "more than one text input"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()

import pytest

from poet.tokens import tasks, vocabulary
from poet.tokens.tasks import Part, Task


def test_prompts_follow_the_output():
    prompts = {}
    for name, task in tasks.TASKS.items():
        prompts.setdefault(task.prompt, []).append(name)
    assert prompts == {
        vocabulary.VIDEO: [
            "text_to_video",
            "text_to_image",
            "image_to_video",
            "image_to_video_without_text",
            "future_prediction",
            "future_prediction_with_text",
            "future_prediction_1",
            "future_prediction_5",
            "future_prediction_13",
            "unconditional",
        ],
        vocabulary.PAINT: [
            "inpainting",
            "inpainting_with_text",
            "outpainting",
            "outpainting_with_text",
        ],
        vocabulary.STYLE: ["stylization", "stylization_with_first_frame"],
        vocabulary.AUDIO_TO_VIDEO: ["audio_to_video"],
        vocabulary.VIDEO_TO_AUDIO: ["video_to_audio"],
        vocabulary.AV_CONTINUATION: [
            "audio_video_continuation",
            "audio_video_continuation_9",
            "text_to_video_with_sound",
        ],
    }
    assert [name for name, task in tasks.TASKS.items() if not task.ends] == ["text_to_image"]


def test_what_tasks_read():
    assert tasks.get("image_to_video").fields == ("text_ids", "visual")
    assert tasks.get("video_to_audio").uses_audio
    assert not tasks.get("text_to_video").uses_audio
    texts = {name for name, task in tasks.TASKS.items() if task.has_text}
    assert texts == {
        "text_to_video",
        "text_to_image",
        "image_to_video",
        "future_prediction_with_text",
        "inpainting_with_text",
        "outpainting_with_text",
        "stylization",
        "stylization_with_first_frame",
        "text_to_video_with_sound",
    }


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


def test_audio_follows_the_picture_at_any_rate():
    """0.125 s and 1.125 s are 6 and 56 audio frames at 50 Hz, 3 and 28 at 25 Hz."""
    from poet.tokens import sequence
    from poet.tokens.clip import ClipShape, SoundShape
    from poet.tokens.vocabulary import Vocabulary

    clip = ClipShape(17, 128, 128)
    for hop, one, nine in ((320, 6, 56), (640, 3, 28)):
        sound = SoundShape.for_clip(clip, 4, hop)
        for name, count in (
            ("audio_video_continuation", one),
            ("audio_video_continuation_9", nine),
        ):
            plan = sequence.plan(tasks.get(name), clip, sound, 64, Vocabulary())
            given, written = (
                next(s.source for s in plan.slots if s.kind == "audio" and s.is_output == out)
                for out in (False, True)
            )
            assert given == (0, count) and written == (count, sound.num_audio_frames)
    with pytest.raises(ValueError, match="'visual' is visual; only audio follows"):
        Part("visual", "visual", 0, 1, True)

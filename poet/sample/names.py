"""The twelve things that can be asked for, by the words people use, and the tasks that answer them.

A word stands for the task that fits what else is given; a checkpoint may have been trained for
some of them only. Names of tasks (docs/tasks.md) are understood too.
"""

from collections.abc import Collection

# Word -> tasks that answer it, best first. "text": with words. "picture": with a picture besides
# the clip. Conditions are checked in this order; the last task needs neither.
_ANSWERS: dict[str, tuple[tuple[str, frozenset[str]], ...]] = {
    "text_to_image": (("text_to_image", frozenset()),),
    "text_to_video": (("text_to_video", frozenset()),),
    "image_to_video": (
        ("image_to_video", frozenset({"text"})),
        ("image_to_video_without_text", frozenset()),
        ("future_prediction_1", frozenset()),
        ("image_to_video", frozenset()),
    ),
    "continue": (
        ("future_prediction_with_text", frozenset({"text"})),
        ("future_prediction", frozenset()),
        ("future_prediction_13", frozenset()),
        ("future_prediction_5", frozenset()),
    ),
    "inpaint": (
        ("inpainting_with_text", frozenset({"text"})),
        ("inpainting", frozenset()),
        ("inpainting_with_text", frozenset()),
    ),
    "outpaint": (
        ("outpainting_with_text", frozenset({"text"})),
        ("outpainting", frozenset()),
        ("outpainting_with_text", frozenset()),
    ),
    "stylize": (
        ("stylization_with_first_frame", frozenset({"picture"})),
        ("stylization", frozenset()),
    ),
    "audio_to_video": (("audio_to_video", frozenset()),),
    "video_to_audio": (("video_to_audio", frozenset()),),
    "continue_with_sound": (
        ("audio_video_continuation_9", frozenset()),
        ("audio_video_continuation", frozenset()),
    ),
    "text_to_video_with_sound": (("text_to_video_with_sound", frozenset()),),
    "unconditional": (("unconditional", frozenset()),),
}
WORDS = tuple(_ANSWERS)

# Words whose clip is the end of a file, not its beginning.
FROM_END = ("continue", "continue_with_sound")


def resolve(
    word: str, trained: Collection[str], has_text: bool = False, has_picture: bool = False
) -> str:
    """The name of the task that answers a word, of those a checkpoint was trained for.

    Args:
      word: One of `WORDS`, or a task's name.
      trained: Names of the checkpoint's tasks.
      has_text: Whether the request has words.
      has_picture: Whether it has a picture besides a clip.

    Raises:
      ValueError: naming what the checkpoint was trained for.
    """
    given = {name for name, there in (("text", has_text), ("picture", has_picture)) if there}
    for task, needs in _ANSWERS.get(word, ((word, frozenset()),)):
        if task in trained and needs <= given:
            return task
    raise ValueError(
        f"This checkpoint was not trained for {word!r}; it was trained for"
        f" {', '.join(answered_by(trained))}. Choose one of them or another --checkpoint."
    )


def answered_by(trained: Collection[str]) -> list[str]:
    """The words that a checkpoint can answer, then its tasks that no word stands for."""
    words = [
        word for word, answers in _ANSWERS.items() if any(task in trained for task, _ in answers)
    ]
    named = {task for answers in _ANSWERS.values() for task, _ in answers}
    return words + sorted(set(trained) - named)

"""Mixtures of the registered tasks.

The paper publishes no weight per task (spec/videopoet.md section 4): here every family of tasks
weighs the same, and the variants of a family share its weight. A run changes weights by gin:

    lm.LMRun.task_weights = {'poet_text_to_video': 2.0, 'poet_unconditional': 0.0}
"""

from collections.abc import Sequence

from tasks import paper, registry

# Which words name a task's variants; the weight of a family is divided among them.
TEXT_TO_IMAGE = ("text_to_image",)
TEXT_TO_VIDEO = ("text_to_video",)
IMAGE_TO_VIDEO = ("image_to_video",)
FUTURE_PREDICTION = (
    "future_prediction_1",  # also image-to-video without text
    "future_prediction_5",
    "future_prediction",  # 9 frames
    "future_prediction_13",
)
UNCONDITIONAL = ("unconditional",)
# Text stands before half of the masked clips, and the first frame in half of the stylizations.
PAINTING = ("inpainting", "inpainting_with_text", "outpainting", "outpainting_with_text")
STYLIZATION = ("stylization", "stylization_with_first_frame")
AUDIO_TO_VIDEO = ("audio_to_video",)
VIDEO_TO_AUDIO = ("video_to_audio",)
CONTINUATION = ("audio_video_continuation",)
# Not among the paper's pretraining tasks: they serve generation of clips with sound, and of long
# clips whose words change.
WITH_SOUND = (
    "audio_video_continuation_9",
    "text_to_video_with_sound",
    "future_prediction_with_text",
)


def mix(name: str, families: Sequence[Sequence[str]]) -> registry.MixtureEntry:
    """Registers a mixture: families weigh the same, the variants of one share its weight."""
    weights = {paper.name_of(task): 1.0 / len(family) for family in families for task in family}
    return registry.register_mixture(name, weights)


_SSL = (UNCONDITIONAL, FUTURE_PREDICTION, PAINTING, CONTINUATION)
_PRETRAIN = (
    TEXT_TO_IMAGE,
    TEXT_TO_VIDEO,
    IMAGE_TO_VIDEO,
    FUTURE_PREDICTION,
    UNCONDITIONAL,
    PAINTING,
    STYLIZATION,
    AUDIO_TO_VIDEO,
    VIDEO_TO_AUDIO,
    CONTINUATION,
)

# Every pretraining task of the paper (section 3.2; spec section 4.1), and those with ours besides.
PRETRAIN = mix("poet_pretrain", _PRETRAIN)
PRETRAIN_WITH_SOUND = mix(
    "poet_pretrain_with_sound", (*_PRETRAIN, *((task,) for task in WITH_SOUND))
)

# The sets of the paper's Table 1 (which tasks each row holds: spec section 7.3, from memory).
TABLE1_T2V = mix("poet_table1_t2v", (TEXT_TO_VIDEO,))
TABLE1_T2V_I = mix("poet_table1_t2v_i", (TEXT_TO_IMAGE, TEXT_TO_VIDEO))
TABLE1_SSL = mix("poet_table1_ssl", _SSL)
TABLE1_NO_T2I = mix("poet_table1_no_t2i", (TEXT_TO_VIDEO, *_SSL))
TABLE1_ALL = mix("poet_table1_all", (TEXT_TO_IMAGE, TEXT_TO_VIDEO, *_SSL))

# Task adaptation: further training on better clips for one use (paper, section on adaptation).
ADAPT_T2V = mix("poet_adapt_t2v", (TEXT_TO_VIDEO,))
ADAPT_I2V = mix("poet_adapt_i2v", (("image_to_video", "future_prediction_1"),))
ADAPT_V2A = mix("poet_adapt_v2a", (VIDEO_TO_AUDIO,))

# What `make demo` trains in its eight minutes.
DEMO = mix(
    "poet_demo",
    (
        TEXT_TO_VIDEO,
        TEXT_TO_IMAGE,
        IMAGE_TO_VIDEO,
        ("future_prediction",),
        UNCONDITIONAL,
        VIDEO_TO_AUDIO,
    ),
)

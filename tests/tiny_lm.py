"""A language model of two small layers, its plans and batches, for tests of models and sampling.

The clip is 5 latent frames of 1 x 2 tokens, the sound 2 levels of 4 audio frames.
"""

import functools

import jax
import numpy as np
from flax.core import meta

from poet.models.config import PrefixLMConfig
from poet.models.prefix_lm import PrefixLM
from poet.models.text_encoder import TextEncoderConfig
from poet.tokens import sequence, tasks
from poet.tokens.clip import ClipShape, SoundShape
from poet.tokens.vocabulary import Vocabulary

BATCH, TEXT_SLOTS = 2, 5
VOCABULARY = Vocabulary(num_visual=12, audio_levels=(5, 6), num_text=20)
CLIP, SOUND = ClipShape(17, 8, 16), SoundShape(2, 4)
CONFIG = PrefixLMConfig(
    vocabulary=VOCABULARY,
    text=TextEncoderConfig(
        num_ids=20, num_layers=1, d_model=16, num_heads=2, head_dim=4, mlp_dim=16
    ),
    num_layers=2,
    d_model=16,
    num_heads=4,
    num_kv_heads=2,
    head_dim=4,
    mlp_dim=24,
    text_slots=TEXT_SLOTS,
)

# Of one layer, for runs that train on a prepared dataset, whose ids replace these.
TRAINED = PrefixLMConfig(
    num_layers=1,
    d_model=32,
    num_heads=2,
    head_dim=16,
    mlp_dim=64,
    text_slots=16,
    text=TextEncoderConfig(num_layers=1, d_model=16, num_heads=1, head_dim=16, mlp_dim=16),
)


# Every kind of plan once. The continuations of the paper take more sound than this clip has.
TASK_NAMES = [
    "text_to_video",
    "text_to_image",
    "image_to_video",
    "future_prediction",
    "unconditional",
    "inpainting",
    "stylization_with_first_frame",
    "audio_to_video",
    "video_to_audio",
    "text_to_video_with_sound",
]


def plan_of(name):
    """The plan of a built-in task."""
    return sequence.plan(tasks.get(name), CLIP, SOUND, TEXT_SLOTS, VOCABULARY)


def random_fields(seed=0, batch_size=BATCH):
    """Codes of every kind; the text ends after three slots."""
    rng = np.random.default_rng(seed)
    audio = [rng.integers(0, n, (batch_size, 1, 4)) for n in VOCABULARY.audio_levels]
    text_ids = rng.integers(3, 20, (batch_size, TEXT_SLOTS))
    text_ids[:, 3:] = 0
    pictures = {
        name: rng.integers(0, 12, (batch_size, 5, 1, 2))
        for name in ("visual", "masked", "structure")
    }
    return {
        **pictures,
        "audio": np.concatenate(audio, axis=1),
        "text_ids": text_ids,
    }


def batch_of(name, seed=0):
    """An assembled batch of a built-in task."""
    return sequence.assemble(plan_of(name), random_fields(seed))


@functools.cache
def boxed_params():
    """Parameters with their logical axes."""
    plan, batch = plan_of("unconditional"), batch_of("unconditional")
    init = jax.jit(lambda key: PrefixLM(CONFIG).init(key, plan, batch))
    return init(jax.random.key(0))["params"]


@functools.cache
def lively_params():
    """Plain parameters with a head large enough that losses and choices differ clearly."""
    params = meta.unbox(boxed_params())
    return params | {"head": jax.tree.map(lambda table: 20 * table, params["head"])}

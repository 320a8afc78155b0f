"""From an image tokenizer to a video tokenizer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poet.tokenizers import inflation, magvit2
from poet.train.compiling import run_once

CONFIG = magvit2.MagvitConfig(
    base_channels=4, multipliers=(1, 1, 2, 2), blocks_per_stage=1, norm_groups=2, num_bits=6
)


def init(key):
    return run_once(lambda key: magvit2.init_params(CONFIG, key), key)


@jax.jit
def restored(params, video):
    return magvit2.Magvit2(CONFIG).apply({"params": params}, video)


@pytest.mark.slow
def test_a_still_clip_is_its_image_in_every_frame(key):
    params = inflation.inflate(init(key))
    image = jax.random.uniform(jax.random.key(1), (1, 1, 16, 16, 3))
    clip = jnp.repeat(image, 9, axis=1)
    from_image, image_latents = restored(params, image)
    from_clip, clip_latents = restored(params, clip)
    for t in range(3):
        np.testing.assert_allclose(clip_latents[:, t], image_latents[:, 0], atol=1e-4)
    for t in range(9):
        np.testing.assert_allclose(from_clip[:, t], from_image[:, 0], atol=1e-4)


@pytest.mark.slow
def test_an_image_stays_what_it_was(key):
    params = init(key)
    image = jax.random.uniform(jax.random.key(1), (1, 1, 16, 16, 3))
    before, _ = restored(params, image)
    after, _ = restored(inflation.inflate(params), image)
    np.testing.assert_allclose(after, before, atol=1e-4)

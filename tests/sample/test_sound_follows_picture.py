"""Video-to-audio hears nothing but the picture: other visual ids, another pitch."""

import functools

import jax
import numpy as np
import optax
import pytest
import tiny_lm

from poet.models.prefix_lm import PrefixLM
from poet.sample import decode
from poet.sample.requests import SamplingRequest
from poet.tokens import sequence

PLAN = tiny_lm.plan_of("video_to_audio")
# Colour c shows as visual codes 2 c and 2 c + 1, and sounds as "pitch" c on level 0.
NUM_COLOURS = 5


def clips_of(colours, seed):
    """Fields of clips of these colours; which of a colour's two codes stands where is drawn."""
    rng = np.random.default_rng(seed)
    fields = tiny_lm.random_fields(seed, len(colours))
    noise = rng.integers(0, 2, fields["visual"].shape)
    fields["visual"] = 2 * colours[:, None, None, None] + noise
    fields["audio"][:, 0] = colours[:, None]
    return fields


def trained_params(num_steps=100):
    """A model that has heard clips of all colours."""
    tx = optax.adam(3e-3)
    params = tiny_lm.lively_params()

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, batch):
        def loss_fn(p):
            return PrefixLM(tiny_lm.CONFIG).apply({"params": p}, PLAN, batch, method="loss")[0]

        updates, state = tx.update(jax.grad(loss_fn)(params), state)
        return optax.apply_updates(params, updates), state

    params = jax.tree.map(jax.numpy.array, params)
    state = tx.init(params)
    for index in range(num_steps):
        colours = np.random.default_rng(index).integers(0, NUM_COLOURS, 16)
        params, state = step(params, state, sequence.assemble(PLAN, clips_of(colours, index)))
    return params


@pytest.mark.slow
def test_swapping_the_video_swaps_the_pitch():
    ready = decode.prepare_for_sampling(trained_params(), tiny_lm.CONFIG)
    colours = np.arange(NUM_COLOURS)
    visual = clips_of(colours, seed=10_000)["visual"]

    def pitches(given):
        greedy = SamplingRequest(temperature=0.0)
        made = decode.generate(ready, tiny_lm.CONFIG, PLAN, {"visual": given}, greedy)
        return made["audio"][:, 0]

    np.testing.assert_array_equal(pitches(visual), np.repeat(colours[:, None], 4, axis=1))
    order = np.array([1, 0, 4, 2, 3])
    np.testing.assert_array_equal(pitches(visual[order]), pitches(visual)[order])

"""Tables whose visual rows share vectors by bits."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_lm
from flax.core import meta

from poet.models import tables
from poet.models.prefix_lm import PrefixLM
from poet.sample import decode
from poet.tokenizers.quantizers import lfq
from poet.tokens import sequence, tasks

VOCABULARY = dataclasses.replace(tiny_lm.VOCABULARY, num_visual=8)
CONFIG = dataclasses.replace(tiny_lm.CONFIG, vocabulary=VOCABULARY, share_visual_bits=True)


def plan_and_batch(name="text_to_video"):
    plan = sequence.plan(
        tasks.get(name), tiny_lm.CLIP, tiny_lm.SOUND, tiny_lm.TEXT_SLOTS, VOCABULARY
    )
    fields = tiny_lm.random_fields()
    return plan, sequence.assemble(plan, fields | {"visual": fields["visual"] % 8})


def test_rows_by_hand():
    """Row 2 is binary 10: minus the vector of bit 0, plus that of bit 1."""
    table = jnp.array([[10.0], [20.0], [30.0], [40.0]])
    rows = tables.add_bits(table, jnp.array([[1.0], [5.0]]))
    np.testing.assert_allclose(rows, [[10 - 6], [20 - 4], [30 + 4], [40 + 6]])


def test_bits_are_those_of_the_quantizer():
    latents = jnp.array([[1.0, -1.0, 1.0], [-1.0, 1.0, 1.0]])
    rows = tables.add_bits(jnp.zeros((8, 3)), jnp.eye(3))
    np.testing.assert_array_equal(rows[lfq.to_ids(latents)], latents)


@pytest.mark.slow
def test_shared_rows_equal_plain_rows_of_the_same_value():
    """The loss, and the logits of cached decoding, are those of a model with the sums as tables."""
    plan, batch = plan_and_batch()
    init = jax.jit(lambda key: PrefixLM(CONFIG).init(key, plan, batch))
    params = meta.unbox(init(jax.random.key(0))["params"])
    assert params["head"]["visual_bits"].shape == (3, 16)
    params["head"] = jax.tree.map(lambda table: 20 * table, params["head"])
    plain = dict(params)
    for name in ("embed", "head"):
        plain[name] = {
            segment.name: tables.segment_rows(params[name], segment)
            for segment in VOCABULARY.segments
        }
    other = dataclasses.replace(CONFIG, share_visual_bits=False, row_multiple=1)
    one, two = (
        jax.jit(
            lambda values, config=config: PrefixLM(config).apply(
                {"params": values}, plan, batch, method="loss"
            )[0]
        )(values)
        for config, values in ((CONFIG, params), (other, plain))
    )
    assert float(one) == pytest.approx(float(two), rel=1e-6)
    logits = (
        decode.cached_logits(decode.prepare_for_sampling(values, config), config, plan, batch)
        for config, values in ((CONFIG, params), (other, plain))
    )
    for mine, theirs in zip(*logits, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)


def test_other_numbers_of_codes_are_refused():
    config = dataclasses.replace(tiny_lm.CONFIG, share_visual_bits=True)
    with pytest.raises(ValueError, match="needs a power of two of visual codes, got 12"):
        _ = config.visual_bits


def test_own_vectors_start_small_beside_shared_ones(key):
    """So codes start as what their bits are; without shared bits all tables start alike."""
    for bits, share in ((3, 0.1), (0, 1.0)):
        module = tables.SegmentTables(VOCABULARY, 512, 1, stddev=0.5, visual_bits=bits)
        params = meta.unbox(module.init(key))["params"]
        assert float(params["visual"].std()) == pytest.approx(0.5 * share, rel=0.1)
        assert float(params["text"].std()) == pytest.approx(0.5, rel=0.1)

"""Parameters by part, worked out by hand for a small model."""

import dataclasses

import jax
import tiny_lm
from flax.core import meta

from poet.models import counting


def test_a_small_model_by_hand():
    """Two layers of d 16: queries and outputs 16 x 16, keys and values 16 x 8, hidden width 24."""
    shapes = counting.parameter_shapes(tiny_lm.CONFIG)
    counts = counting.count_by_part(shapes)
    assert counts["blocks"] == 2 * (2 * 256 + 2 * 128 + 3 * 16 * 24 + 2 * 16 + 2 * 4) + 16
    assert counts["embedding"] == counts["head"] == (256 + 4 * 128) * 16  # each table padded
    assert counts["text input"] == 16 * 16 + 16
    assert sum(counts.values()) == sum(leaf.size for leaf in jax.tree.leaves(shapes))
    want = jax.tree.map(lambda leaf: leaf.shape, meta.unbox(tiny_lm.boxed_params()))
    assert jax.tree.map(lambda leaf: leaf.shape, meta.unbox(shapes)) == want


def test_a_tied_model_has_one_table():
    config = dataclasses.replace(tiny_lm.CONFIG, ties_embedding=True)
    tied = counting.count_by_part(counting.parameter_shapes(config))
    own = counting.count_by_part(counting.parameter_shapes(tiny_lm.CONFIG))
    assert tied == {part: count for part, count in own.items() if part != "head"}


def test_what_is_no_part_is_other():
    counts = counting.count_by_part({"head": {"text": jax.ShapeDtypeStruct((3, 4), "float32")}})
    assert counting.in_words(counts) == "12 (head 12)"
    assert counting.count_by_part({"encoder": jax.ShapeDtypeStruct((5,), "int8")}) == {"other": 5}

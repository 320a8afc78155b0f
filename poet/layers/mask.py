"""The prefix-LM mask, written out. The model never builds it: it is the tests' reference."""

import jax.numpy as jnp

from poet.typing import Array, Bool


def prefix_lm_mask(length: int, prefix_length: int) -> Bool[Array, "L L"]:
    """Full inside the prefix, causal after it. Rows ask, columns answer.

    Six positions with a prefix of three:

        p p p . . .
        p p p . . .
        p p p . . .
        p p p t . .
        p p p t t .
        p p p t t t
    """
    rows, columns = jnp.arange(length)[:, None], jnp.arange(length)[None, :]
    return (columns <= rows) | ((rows < prefix_length) & (columns < prefix_length))

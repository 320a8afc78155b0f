"""Where a token is: rotary angles over the flat sequence, learned vectors for its coordinates.

Axes: B batch, L positions, N heads, H head width, D model width.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from poet.layers.sharding import platform
from poet.typing import Array, Float, NumpyArray

# What rematerialisation policies call rotated queries and keys on TPU.
KEPT_NAME = "rotated"


def rotation_table(
    length: int, head_dim: int, max_wavelength: float = 10_000.0
) -> Float[NumpyArray, "L H"]:
    """Cosines (first half) and sines (second half) of every position's angles, float32.

    Made by numpy: the length is static, so the table is a constant of the compiled program.
    """
    if head_dim % 2:
        raise ValueError(f"head_dim={head_dim} must be even, because rotation takes pairs.")
    frequencies = max_wavelength ** (-np.arange(0, head_dim, 2) / head_dim)
    angles = np.arange(length)[:, None] * frequencies[None, :]
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=-1).astype(np.float32)


def rotate(x: Float[Array, "B L N H"], table: Any) -> Float[Array, "B L N H"]:
    """Turns the pairs (i, i + H/2) of every head by the angles of the table's rows.

    ``table`` is [L, H], rows of ``rotation_table``. Scores of rotated queries and keys depend on
    the distance between their positions only.
    """
    if platform() == "tpu" and x.dtype == jnp.bfloat16:
        return _rotate_by_product(x, table)
    cos, sin = jnp.split(jnp.asarray(table)[None, :, None, :], 2, axis=-1)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = [first * cos - second * sin, second * cos + first * sin]
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)


def _rotate_by_product(x: Any, table: Any) -> Any:
    """The same, halves exchanged by a product with a matrix of 0, 1 and -1, which is exact.

    A TPU's memory holds numbers of a head in rows of 128: halves of them are read and written in
    passes of their own, a product is one with what stands around it. Policies that keep products
    would keep this one in float32; the result is named `KEPT_NAME` for them to keep instead.
    """
    half = x.shape[-1] // 2
    exchange = np.zeros((2 * half, 2 * half), np.float32)
    exchange[np.arange(half), half + np.arange(half)] = 1
    exchange[half + np.arange(half), np.arange(half)] = -1
    cos, sin = (
        jnp.concatenate([part, part], axis=-1)[None, :, None, :]
        for part in jnp.split(jnp.asarray(table), 2, axis=-1)
    )
    exchange = jnp.asarray(exchange, x.dtype)
    turned = jnp.matmul(x, exchange, preferred_element_type=jnp.float32)
    rotated = (x.astype(jnp.float32) * cos + turned * sin).astype(x.dtype)
    return checkpoint_name(rotated, KEPT_NAME)


class AttributeEmbedding(nn.Module):
    """Sum of one learned vector an attribute of each position.

    Attributes:
      num_values: (attribute, number of values) pairs; values count from 0.
      dim: D.
      sinusoidal: Attributes that are numbers along an axis, the others are names. Their tables
        start as `sinusoidal_table`, so that neighbours are alike before anything is learned, with
        the columns shuffled for each table, so that no two axes share a basis.
    """

    num_values: tuple[tuple[str, int], ...]
    dim: int
    sinusoidal: tuple[str, ...] = ()

    @nn.compact
    def __call__(self, attributes: Mapping[str, NumpyArray]) -> Float[Array, "L D"]:
        """Embeds static attributes, each int [L].

        Raises:
          ValueError: A value has no row, or `sinusoidal` names no attribute.
        """
        if unknown := set(self.sinusoidal) - {name for name, _ in self.num_values}:
            raise ValueError(f"sinusoidal={sorted(unknown)} are no attributes of num_values.")
        total = 0.0
        for name, count in self.num_values:
            is_number = name in self.sinusoidal
            init = _sinusoidal_init if is_number else nn.initializers.normal(_STDDEV)
            init = nn.with_logical_partitioning(init, (None, "embed"))
            table = self.param(name, init, (count, self.dim))
            values = np.asarray(attributes[name])
            if values.size and values.max() >= count:
                raise ValueError(
                    f"The sequence has {name}={values.max() - 1}, the model has rows for values"
                    f" below {count - 1} only; raise its maximum in the model's config."
                )
            total = total + table[values]
        return total


def sinusoidal_table(num_rows: int, dim: int) -> Float[NumpyArray, "num_rows dim"]:
    """Sines, then cosines of the row number, of mean square 1; row 0 ("does not apply") is 0.

    Wavelengths go from 4 to 4 x num_rows in geometric steps (Vaswani et al., arXiv 1706.03762,
    section 3.5, with wavelengths that suit the length). An odd dim lacks the last cosine.
    """
    num_waves = (dim + 1) // 2
    lengths = 4.0 * num_rows ** (np.arange(num_waves) / max(1, num_waves - 1))
    angles = 2 * np.pi * np.arange(num_rows)[:, None] / lengths[None, :]
    rows = np.sqrt(2) * np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)[:, :dim]
    rows[0] = 0.0
    return rows.astype(np.float32)


def _sinusoidal_init(key: Any, shape: tuple[int, int], dtype: Any = jnp.float32) -> Array:
    table = jnp.asarray(_STDDEV * sinusoidal_table(*shape), dtype)
    return jax.random.permutation(key, table, axis=1)


_STDDEV = 0.1

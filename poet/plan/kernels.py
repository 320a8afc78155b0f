"""What attention kernels do: no program's text shows their products, nor what they read twice."""

import math

from poet.layers.splash import SplashBlocks
from poet.plan.costs import Op
from poet.plan.products import Product


def attention_kernels(
    blocks: SplashBlocks,
    length: int,
    prefix_length: int,
    num_rows: int,
    num_heads: int,
    head_dim: int,
) -> dict[str, Op]:
    """Word in a kernel's name -> one run of it on one chip: products, and bytes beyond one reading.

    All pairs of a block are multiplied, whether seen or not, padding included. The forward kernel
    has two products a block, that of the gradients of keys and values four, that of the queries'
    three: both form the scores again. Blocks of keys and values are read again for each block of
    rows, in the kernel for their own gradients the other way round. Exponentials are not counted,
    as nowhere in a plan.

    Args:
      blocks: Of the kernel.
      length: L, before padding.
      prefix_length: P.
      num_rows: Sequences of a chip.
      num_heads: Query heads of a chip.
      head_dim: H.
    """
    rows, keys = blocks.of(length)
    heads = num_rows * num_heads
    visits = float(heads * sum(1 for _ in blocks.pairs(length, prefix_length)))
    wide = Product(rows, head_dim, keys, visits)
    narrow = Product(rows, keys, head_dim, visits)
    back = Product(keys, rows, head_dim, visits)
    row_blocks, key_blocks = math.ceil(length / rows), math.ceil(length / keys)
    # Two arrays of two bytes a number; the other way also two numbers a row, eight times each.
    again = 2 * 2.0 * keys * head_dim * (visits - heads * key_blocks)
    back_again = (2 * 2.0 * head_dim + 2 * 8 * 4.0) * rows * (visits - heads * row_blocks)
    return {
        "splash_mha_fwd": Op((wide, narrow), again, 1.0, "attention kernel, forward"),
        "splash_mha_dkv": Op(
            (wide, wide, back, back), back_again, 1.0, "attention kernel, keys' gradients"
        ),
        "splash_mha_dq": Op((wide, wide, narrow), again, 1.0, "attention kernel, rows' gradients"),
    }

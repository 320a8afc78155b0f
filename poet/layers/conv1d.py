"""Causal 1-D convolutions: the past is padded, the future is never read.

Axes: B batch, S samples or frames, C channels in, O channels out, K kernel taps.

Which form computes a convolution is decided here and nowhere else. Measured on 2 CPU cores (8 crops
of 8,000 samples, forward and both gradients, milliseconds):

    layer                              XLA native   form used here
    taps 7, 1 -> 8 channels            2.5          0.6   (folded time, matmul)
    taps 7, 8 -> 8 channels            3.9          2.1   (folded time, matmul)
    taps 7, 8 -> 8 channels, dilated   4.9          4.9   (native; matmuls over taps 4.2 to 5.4)
    taps 7, 32 -> 32, 1,000 frames     2.1          2.1   (native; matmuls over taps 2.9)
    taps 4, stride 2, 8 -> 16          4.5          2.5   (blocks, matmul)
    transposed, stride 8, 16 -> 8      42           1.3   (blocks, matmul)
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import lax

from poet.layers.conv import STREAM
from poet.typing import Array, Float

# Neighbouring samples folded into channels, and the widest layer for which that pays.
_FOLD = 4
_WIDEST_FOLD = 8


def causal_conv1d(
    x: Float[Array, "B S C"],
    kernel: Float[Array, "K C O"],
    bias: Float[Array, "O"] | None = None,
    *,
    stride: int = 1,
    dilation: int = 1,
) -> Float[Array, "B _ O"]:
    """Convolution whose output t has read inputs up to the end of stride block t.

    Zeros stand before the first sample. With a stride, S must be a whole number of strides and the
    output has S / stride positions. Equal to `causal_conv1d_reference` up to rounding.
    """
    num_taps, num_in, num_out = kernel.shape
    _check(x, stride, dilation)
    if num_taps == 1 and stride == 1:
        out = _matmul(x, kernel[0])
    elif stride > 1 and num_taps == 2 * stride and dilation == 1:
        out = _matmul(_pairs_of_blocks(x, stride), kernel.reshape(-1, num_out))
    elif stride == 1 and dilation == 1 and max(num_in, num_out) <= _WIDEST_FOLD:
        out = _folded(x, kernel)
    else:
        out = _native(x, kernel, stride, dilation)
    return out if bias is None else out + bias.reshape(1, 1, -1)


def causal_conv1d_reference(x, kernel, bias=None, *, stride=1, dilation=1):
    """`causal_conv1d` as one XLA convolution: what the other forms must agree with."""
    _check(x, stride, dilation)
    out = _native(x, kernel, stride, dilation)
    return out if bias is None else out + bias.reshape(1, 1, -1)


def causal_conv_transpose1d(
    x: Float[Array, "B S C"],
    kernel: Float[Array, "K C O"],
    bias: Float[Array, "O"] | None = None,
    *,
    stride: int,
) -> Float[Array, "B _ O"]:
    """Transposed convolution with K = 2 * stride: input t reaches output blocks t and t + 1.

    The block after the last is dropped, so S inputs give S * stride outputs. Output block t is then
    a linear map of inputs t and t - 1, and that matmul is how it is computed.
    """
    num_taps, num_in, num_out = kernel.shape
    _check_transpose(kernel, stride)
    # Taps [now | one before] x stride offsets -> rows (now/before, channel), columns (offset, out).
    taps = kernel.reshape(2, stride, num_in, num_out).transpose(0, 2, 1, 3)
    both = jnp.concatenate([x, _delayed(x)], axis=-1)
    out = _matmul(both, taps.reshape(2 * num_in, stride * num_out))
    out = out.reshape(x.shape[0], x.shape[1] * stride, num_out)
    return out if bias is None else out + bias.reshape(1, 1, -1)


def causal_conv_transpose1d_reference(x, kernel, bias=None, *, stride):
    """`causal_conv_transpose1d` as one XLA convolution over a stretched input."""
    _check_transpose(kernel, stride)
    edge = kernel.shape[0] - 1
    out = lax.conv_general_dilated(
        x,
        kernel[::-1],
        (1,),
        [(edge, edge)],
        lhs_dilation=(stride,),
        dimension_numbers=("NWC", "WIO", "NWC"),
    )[:, : x.shape[1] * stride]
    return out if bias is None else out + bias.reshape(1, 1, -1)


def positions_to_keep(num_taps: int, stride: int, dilation: int) -> int:
    """Inputs before a chunk that its outputs read, rounded up to whole strides."""
    reach = (num_taps - 1) * dilation - (stride - 1)
    return -(-max(0, reach) // stride) * stride


class CausalConv1d(nn.Module):
    """`causal_conv1d` with its own kernel and bias.

    Applied with the collection ``STREAM`` mutable, it takes the inputs before x from there, silence
    in the first chunk, and leaves there what the next chunk needs. Chunks are whole strides long.

    Attributes:
      num_channels: O.
      num_taps: K.
    """

    num_channels: int
    num_taps: int
    stride: int = 1
    dilation: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "B S C"]) -> Float[Array, "B _ O"]:
        shape = (self.num_taps, x.shape[-1], self.num_channels)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.num_channels,))
        count = positions_to_keep(self.num_taps, self.stride, self.dilation)
        x = _with_past(self, x, count)
        out = causal_conv1d(x, kernel, bias, stride=self.stride, dilation=self.dilation)
        return out[:, count // self.stride :] if _is_streaming(self, count) else out


class CausalConvTranspose1d(nn.Module):
    """`causal_conv_transpose1d` with its own kernel of 2 * stride taps, and bias.

    Streams as `CausalConv1d` does: the last input of a chunk is heard in the next.
    """

    num_channels: int
    stride: int

    @nn.compact
    def __call__(self, x: Float[Array, "B S C"]) -> Float[Array, "B _ O"]:
        # Every output hears two taps, whatever the stride: the fan-in is 2 C, not K C.
        num_in = x.shape[-1]
        shape = (2, num_in, self.stride, self.num_channels)
        init = nn.initializers.lecun_normal(in_axis=(0, 1), out_axis=(2, 3))

        def taps_first(key, shape):
            return init(key, shape).transpose(0, 2, 1, 3).reshape(-1, num_in, self.num_channels)

        kernel = self.param("kernel", taps_first, shape)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.num_channels,))
        out = causal_conv_transpose1d(_with_past(self, x, 1), kernel, bias, stride=self.stride)
        return out[:, self.stride :] if _is_streaming(self, 1) else out


def _is_streaming(layer: nn.Module, count: int) -> bool:
    return count > 0 and layer.is_mutable_collection(STREAM) and not layer.is_initializing()


def _with_past(layer: nn.Module, x, count: int):
    """x behind the `count` inputs before it, when a sound comes in chunks."""
    if not _is_streaming(layer, count):
        return x
    silence = jnp.zeros((x.shape[0], count, x.shape[2]), x.dtype)
    past = layer.get_variable(STREAM, "past", silence)
    x = jnp.concatenate([past.astype(x.dtype), x], axis=1)
    layer.put_variable(STREAM, "past", x[:, x.shape[1] - count :])
    return x


def _native(x, kernel, stride, dilation):
    past = (kernel.shape[0] - 1) * dilation - (stride - 1)
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride,),
        [(past, 0)],
        rhs_dilation=(dilation,),
        dimension_numbers=("NWC", "WIO", "NWC"),
    )


def _folded(x, kernel):
    """Folds `_FOLD` samples into channels, so that a narrow layer becomes a useful matmul.

    Output block u is a linear map of input blocks u - h .. u. Its matrix holds each tap once per
    sample of the block (and zeros), gathered from the kernel by a static index.
    """
    (batch, length, num_in), (num_taps, _, num_out) = x.shape, kernel.shape
    past = -(-(num_taps - 1) // _FOLD)
    num_blocks = -(-length // _FOLD)
    padded = jnp.pad(x, ((0, 0), (past * _FOLD, num_blocks * _FOLD - length), (0, 0)))
    blocks = padded.reshape(batch, past + num_blocks, _FOLD * num_in)
    rows = jnp.concatenate([blocks[:, i : i + num_blocks] for i in range(past + 1)], axis=-1)
    # tap_of[m, t]: the tap by which sample m of the rows reaches sample t of the block.
    lag = past * _FOLD + np.arange(_FOLD)[None] - np.arange((past + 1) * _FOLD)[:, None]
    tap_of = np.where((lag >= 0) & (lag < num_taps), num_taps - 1 - lag, num_taps)
    taps = jnp.concatenate([kernel, jnp.zeros_like(kernel[:1])])[tap_of]
    matrix = taps.transpose(0, 2, 1, 3).reshape(rows.shape[-1], _FOLD * num_out)
    return _matmul(rows, matrix).reshape(batch, num_blocks * _FOLD, num_out)[:, :length]


def _pairs_of_blocks(x, block):
    """[B, S, C] -> [B, S / block, 2 * block * C]: each block behind the one before it."""
    blocks = x.reshape(x.shape[0], x.shape[1] // block, block * x.shape[2])
    return jnp.concatenate([_delayed(blocks), blocks], axis=-1)


def _delayed(x):
    return jnp.pad(x, ((0, 0), (1, 0), (0, 0)))[:, :-1]


def _matmul(x, matrix):
    # One flat matmul: XLA on CPU is several times slower with a batch axis in the weight gradient.
    flat = x.reshape(-1, x.shape[-1]) @ matrix
    return flat.reshape(*x.shape[:-1], matrix.shape[-1])


def _check(x, stride, dilation):
    if x.shape[1] % stride:
        raise ValueError(
            f"x has {x.shape[1]} positions, not a whole number of strides of {stride};"
            f" cut it to {x.shape[1] - x.shape[1] % stride}."
        )
    if stride > 1 and dilation > 1:
        raise ValueError(
            f"stride={stride} with dilation={dilation} is not supported; set one of them to 1."
        )


def _check_transpose(kernel, stride):
    if kernel.shape[0] != 2 * stride:
        raise ValueError(
            f"A transposed kernel needs 2 * stride = {2 * stride} taps, but it has"
            f" {kernel.shape[0]}; change the kernel or the stride."
        )

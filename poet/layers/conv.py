"""Causal 3-D convolution of clips, channels last: the past is padded, the future is never read.

Edge padding as in MAGVIT-v2: time is padded by K - 1 copies of the first frame, each spatial axis
by (K - 1) // 2 copies before and K // 2 after. A one-frame clip is therefore an image: all taps in
time see the same frame, so their sum is a 2-D kernel.

XLA's native 3-D convolution is slow on CPU, its gradients with strides slower still. Two steps
avoid both: strides become channels (space to depth), so that every convolution has stride 1, and a
3-D convolution is a sum over time taps of 2-D convolutions. Which form runs is decided here only.
Measured on 2 CPU cores (8 clips, forward and both gradients, milliseconds of processor time):

    layer                                     XLA native   im2col, matmul   form used here
    3^3, 8 channels, 17 x 32 x 32             323          326              215
    3^3, 16 channels, 17 x 16 x 16            163          163              79
    3^3, 32 channels, 9 x 8 x 8               53           46               23
    3^3, 32 -> 256 channels, 9 x 8 x 8        239          95               101
    4^3 stride 1,2,2, 8 channels, 17 x 32^2   1,673        420              108
    4^3 stride 2, 32 channels, 17 x 16 x 16   1,540        379              84
    4^3 stride 2, 64 channels, 9 x 8 x 8      594          152              21
    3^3, 8 channels, 1 x 32 x 32 (an image)   26           10               3

Axes: B batch, T frames, Y rows, X columns, C channels in, O channels out, K kernel taps (three
numbers).
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from poet.typing import Array, Float

# Flax collection with the last frames that each layer has seen, when a clip comes in chunks.
STREAM = "stream"


def causal_conv3d(
    x: Float[Array, "B T Y X C"],
    kernel: Float[Array, "Kt Ky Kx _ O"],
    bias: Float[Array, "O"] | None = None,
    *,
    strides: Sequence[int] = (1, 1, 1),
    past: Float[Array, "B _ Y X C"] | None = None,
) -> Float[Array, "B _ _ _ O"]:
    """Convolution whose output frame i reads no input frame after `i * strides[0]`.

    Equal to `causal_conv3d_reference` up to rounding, gradients included.

    Args:
      strides: In time, rows, columns. T frames give 1 + (T - 1) // strides[0], Y rows give
        Y // strides[1] when the stride divides them and the kernel is not smaller than it.
      past: What `frames_to_keep` gave for the chunk before, when a clip comes in chunks; None
        repeats the first frame.
    """
    _check(x, kernel, past, strides)
    if x.shape[1] == 1 and past is None:
        kernel = kernel.sum(0, keepdims=True)
        strides = (1, *strides[1:])
    out = _strided(_padded(x, kernel.shape[:3], past), kernel, tuple(strides))
    return out if bias is None else out + bias.reshape(1, 1, 1, 1, -1)


def causal_conv3d_reference(x, kernel, bias=None, *, strides=(1, 1, 1), past=None):
    """`causal_conv3d` as one native XLA convolution: what the fast form must agree with."""
    _check(x, kernel, past, strides)
    out = lax.conv_general_dilated(
        _padded(x, kernel.shape[:3], past),
        kernel,
        tuple(strides),
        "VALID",
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )
    return out if bias is None else out + bias.reshape(1, 1, 1, 1, -1)


def conv3d(
    x: Float[Array, "B T Y X C"],
    kernel: Float[Array, "Kt Ky Kx _ O"],
    bias: Float[Array, "O"] | None = None,
) -> Float[Array, "B T Y X O"]:
    """Convolution with stride 1 that is not causal: zeros around the clip on every side."""
    _check(x, kernel, None, (1, 1, 1))
    around = [((size - 1) // 2, size // 2) for size in kernel.shape[:3]]
    out = _valid(jnp.pad(x, ((0, 0), *around, (0, 0))), kernel)
    return out if bias is None else out + bias.reshape(1, 1, 1, 1, -1)


def frames_to_keep(
    x: Float[Array, "B T Y X C"], past: Float[Array, "B _ Y X C"] | None, count: int
) -> Float[Array, "B _ Y X C"]:
    """The `past` of the next chunk: the last `count` frames so far, Kt minus the time stride.

    The first chunk has 1 + k * stride frames and the others k * stride, so that the next window
    starts just there.
    """
    if past is None:
        past = jnp.repeat(x[:, :1], count, axis=1)
    frames = jnp.concatenate([past.astype(x.dtype), x], axis=1)
    return frames[:, frames.shape[1] - count :]


class CausalConv3d(nn.Module):
    """`causal_conv3d` with its own kernel and, if asked for, bias.

    Applied with the collection ``STREAM`` mutable, it takes the frames before x from there, none
    in the first chunk, and leaves there what the next chunk needs.

    Attributes:
      num_channels: O.
      kernel_size: Taps in time, rows, columns.
    """

    num_channels: int
    kernel_size: tuple[int, int, int] = (3, 3, 3)
    strides: tuple[int, int, int] = (1, 1, 1)
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "B T Y X C"]) -> Float[Array, "B _ _ _ O"]:
        shape = (*self.kernel_size, x.shape[-1], self.num_channels)
        kernel = self.param("kernel", nn.initializers.lecun_normal(range(4), 4), shape)
        bias = None
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros_init(), (self.num_channels,))
        past, count = None, self.kernel_size[0] - self.strides[0]
        if count > 0 and self.is_mutable_collection(STREAM) and not self.is_initializing():
            past = self.get_variable(STREAM, "past")
            self.put_variable(STREAM, "past", frames_to_keep(x, past, count))
        return causal_conv3d(x, kernel, bias, strides=self.strides, past=past)


def _padded(x, kernel_size, past):
    """Pads edges: in time before the clip only, in space as evenly as the kernel allows."""
    in_space = [((size - 1) // 2, size // 2) for size in kernel_size[1:]]
    if past is not None:
        x = jnp.concatenate([past.astype(x.dtype), x], axis=1)
    in_time = (0 if past is not None else kernel_size[0] - 1, 0)
    return jnp.pad(x, ((0, 0), in_time, *in_space, (0, 0)), mode="edge")


def _strided(padded, kernel, strides):
    """VALID convolution with strides, as one with stride 1 over blocks of strides pixels."""
    if strides == (1, 1, 1):
        return _valid(padded, kernel)
    # The kernel grows by zeros to whole blocks; the input is cut, or padded with what meets
    # only those zeros, to the blocks that are read.
    blocks = [-(-size // stride) for size, stride in zip(kernel.shape[:3], strides, strict=True)]
    grow = [
        (0, count * stride - size)
        for count, stride, size in zip(blocks, strides, kernel.shape[:3], strict=True)
    ]
    for axis, (count, stride) in enumerate(zip(blocks, strides, strict=True), start=1):
        num_out = (padded.shape[axis] - kernel.shape[axis - 1]) // stride + 1
        wanted = (num_out - 1 + count) * stride
        fit = [(0, 0)] * 5
        fit[axis] = (0, max(0, wanted - padded.shape[axis]))
        padded = lax.slice_in_dim(jnp.pad(padded, fit), 0, wanted, axis=axis)
    kernel = jnp.pad(kernel, (*grow, (0, 0), (0, 0)))
    # In the kernel the block axes come first, in the input the batch does.
    folded = _blocks_to_channels(kernel[None], strides)[0]
    return _valid(_blocks_to_channels(padded, strides), folded)


def _blocks_to_channels(x, strides):
    """[B, T, Y, X, C, ...] -> [B, T / st, Y / sy, X / sx, st * sy * sx * C, ...]."""
    counts = [size // stride for size, stride in zip(x.shape[1:4], strides, strict=True)]
    split = [n for pair in zip(counts, strides, strict=True) for n in pair]
    x = x.reshape(x.shape[0], *split, *x.shape[4:])
    x = x.transpose(0, 1, 3, 5, 2, 4, 6, *range(7, x.ndim))
    return x.reshape(x.shape[0], *counts, -1, *x.shape[8:])


def _valid(padded, kernel):
    """VALID convolution with stride 1 of [B, T, Y, X, C] and [Kt, Ky, Kx, C, O]."""
    if kernel.shape[:3] == (1, 1, 1):
        flat = padded.reshape(-1, padded.shape[-1]) @ kernel[0, 0, 0]
        return flat.reshape(*padded.shape[:-1], -1)
    num_frames = padded.shape[1] - kernel.shape[0] + 1
    taps = [_conv2d(padded[:, i : i + num_frames], tap) for i, tap in enumerate(kernel)]
    return functools.reduce(jnp.add, taps)


def _conv2d(x, kernel):
    frames = x.reshape(-1, *x.shape[2:])
    out = lax.conv_general_dilated(
        frames, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return out.reshape(*x.shape[:2], *out.shape[1:])


def _check(x, kernel, past, strides):
    if x.shape[-1] != kernel.shape[-2]:
        raise ValueError(
            f"x has {x.shape[-1]} channels but the kernel reads {kernel.shape[-2]};"
            " give the kernel of this layer."
        )
    if past is not None and past.shape[1] != kernel.shape[0] - strides[0]:
        raise ValueError(
            f"past has {past.shape[1]} frames but a kernel of {kernel.shape[0]} time taps needs"
            f" {kernel.shape[0] - strides[0]} at a time stride of {strides[0]}; give what"
            " frames_to_keep gave for the chunk before."
        )

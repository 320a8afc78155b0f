"""The layers of MAGVIT-v2: a causal 3-D convolutional encoder and decoder around a quantizer.

Space shrinks 8 times and time 4 times, and the first frame stands alone in time, so an image is a
clip of one frame and 17 frames become 5. Every convolution is causal and every normalisation is
over one frame, so codes never depend on later frames. MAGVIT-v2, appendix A. The norms of the
encoder may be of one place each instead (`MagvitConfig.encoder_norm`): ours, see there.

Axes: B batch, T frames (T' latent frames in shapes written t), Y rows, X columns, C channels,
D channels of a latent (bits of LFQ).
"""

import dataclasses
import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from poet.layers.conv import CausalConv3d
from poet.tokenizers.quantizers import choice, fsq
from poet.typing import Array, Float, Int

# Strides of the three steps down, in time, rows, columns. The decoder goes up in reverse order.
DOWN_STRIDES = ((1, 2, 2), (2, 2, 2), (2, 2, 2))
FRAMES_PER_TOKEN = 4
PX_PER_TOKEN = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class MagvitConfig:
    """Sizes of the visual tokenizer; the defaults are the paper's.

    Attributes:
      base_channels: Channels at full resolution are this times the first multiplier.
      multipliers: One a resolution, from full to an eighth.
      blocks_per_stage: Residual blocks a resolution, and as many again around the latent.
      norm_groups: Groups of every group norm; must divide the channels of every resolution.
      encoder_norm: What the encoder's norms take their mean and variance over: "frame", a group's
        channels at all places of a frame (the paper), or "place", at one place. Then what changes
        in one corner leaves the codes of the others alone, and a clip with a region hidden keeps
        most of its codes outside the region. Ours, for small pictures.
      num_bits: D of the lookup-free quantizer; there are 2^D codes.
      fsq_levels: Levels of each channel of finite scalar quantization, which then takes the place
        of the lookup-free one; () for none.
      strided_kernel: Taps of the strided convolutions on each axis, 4 (Google's code) or 3 (the
        paper's figure).
    """

    base_channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2, 4)
    blocks_per_stage: int = 4
    norm_groups: int = 32
    num_bits: int = 18
    fsq_levels: tuple[int, ...] = ()
    strided_kernel: int = 4
    encoder_norm: str = "frame"

    def __post_init__(self):
        object.__setattr__(self, "multipliers", tuple(self.multipliers))
        object.__setattr__(self, "fsq_levels", tuple(self.fsq_levels))
        if self.fsq_levels:
            fsq.check_levels(self.fsq_levels)
        if len(self.multipliers) != len(DOWN_STRIDES) + 1:
            raise ValueError(
                f"multipliers={self.multipliers} has {len(self.multipliers)} entries, but there are"
                f" {len(DOWN_STRIDES) + 1} resolutions; give one for each, such as (1, 2, 2, 4)."
            )
        if self.blocks_per_stage < 1:
            raise ValueError(
                f"blocks_per_stage={self.blocks_per_stage} must be at least 1; the paper has 4."
            )
        if not 1 <= self.num_bits <= 24:
            raise ValueError(
                f"num_bits={self.num_bits} must be 1 to 24 (a table of all codes is kept for the"
                " entropy); the paper has 18."
            )
        if self.strided_kernel not in (3, 4):
            raise ValueError(f"strided_kernel={self.strided_kernel} must be 3 or 4.")
        if self.encoder_norm not in ("frame", "place"):
            raise ValueError(f"encoder_norm={self.encoder_norm!r} must be 'frame' or 'place'.")
        if any(channels % self.norm_groups for channels in self.channels):
            raise ValueError(
                f"norm_groups={self.norm_groups} must divide the channels of every resolution,"
                f" {self.channels}; use a common divisor of them."
            )

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each resolution, from full to an eighth."""
        return tuple(self.base_channels * multiplier for multiplier in self.multipliers)

    @property
    def quantizer(self) -> choice.Quantizer:
        """What turns latents into codes."""
        return choice.Fsq(self.fsq_levels) if self.fsq_levels else choice.Lfq(self.num_bits)

    @property
    def num_codes(self) -> int:
        return self.quantizer.num_codes


def check_video_shape(shape: tuple[int, ...], is_start: bool = True) -> None:
    """Raises ValueError unless [B, T, Y, X, 3] can be encoded: T = 1 + 4k, Y and X = 8k.

    Chunks after a clip's start have T = 4k.
    """
    if len(shape) != 5 or shape[-1] != 3 or 0 in shape:
        raise ValueError(
            f"Expected video of shape [batch, frames, rows, columns, 3], got {tuple(shape)};"
            " give one clip as video[None], an image as image[None, None]."
        )
    num_frames, step = shape[1], FRAMES_PER_TOKEN
    if not is_start and num_frames % step:
        raise ValueError(
            f"Expected a multiple of {step} frames in a chunk after the first, got {num_frames};"
            f" give {num_frames - num_frames % step or step} and keep the rest for the next chunk."
        )
    if is_start and (num_frames - 1) % step:
        low = num_frames - (num_frames - 1) % step
        raise ValueError(
            f"Expected 1 + a multiple of {step} frames, got {num_frames}; the nearest lengths are"
            f" {low} and {low + step}: cut the clip or repeat its last frame."
        )
    for name, size in (("rows", shape[2]), ("columns", shape[3])):
        if size % PX_PER_TOKEN:
            low = size - size % PX_PER_TOKEN
            raise ValueError(
                f"Expected a multiple of {PX_PER_TOKEN} {name}, got {size}; resize to"
                f" {max(low, PX_PER_TOKEN)} or {low + PX_PER_TOKEN}."
            )


class Magvit2(nn.Module):
    """Encoder, quantizer, decoder. Methods are pure and take pixels in [0, 1].

    A clip may come in chunks: apply with the collection `conv.STREAM` mutable and `is_start` true
    for the first chunk, 1 + 4k frames or any number of latents, and false for those that follow,
    4k frames or any number of latents. The pieces are those of the whole clip, because every layer
    is causal and every norm is of a single frame.

    Attributes:
      config: Sizes.
      remat_blocks: A backward pass keeps what enters a residual block or a conditioned norm and
        computes the rest of it again. Parameters and results are the same.
    """

    config: MagvitConfig
    remat_blocks: bool = False

    def setup(self):
        self.encoder = Encoder(self.config, self.remat_blocks)
        self.decoder = Decoder(self.config, self.remat_blocks)

    def __call__(
        self, video: Float[Array, "B T Y X 3"], hardness: Float[Array, ""] | None = None
    ) -> tuple[Float[Array, "B T Y X 3"], Float[Array, "B t h w D"]]:
        """Reconstruction and the latents before their signs were taken.

        Args:
          hardness: See `lfq.hardening`; None is hard from the start, straight through.
        """
        # The quantizer and what is said of it need the latents' own precision.
        latents = self.encode_to_latents(video).astype(jnp.float32)
        quantized = self.config.quantizer.quantize(latents, hardness)
        return self.decode_latents(quantized.astype(video.dtype)), latents

    def encode_to_latents(
        self, video: Float[Array, "B T Y X 3"], is_start: bool = True
    ) -> Float[Array, "B t h w D"]:
        check_video_shape(video.shape, is_start)
        return self.encoder(video)

    def encode(
        self, video: Float[Array, "B T Y X 3"], is_start: bool = True
    ) -> Int[Array, "B t h w"]:
        """Codes in [0, num_codes)."""
        return self.config.quantizer.to_ids(self.encode_to_latents(video, is_start))

    def decode_latents(
        self, quantized: Float[Array, "B t h w D"], is_start: bool = True
    ) -> Float[Array, "B T Y X 3"]:
        """Pixels of quantized latents. Not clipped."""
        return self.decoder(quantized, is_start)

    def decode(self, codes: Int[Array, "B t h w"], is_start: bool = True) -> Array:
        """Pixels [B, T, Y, X, 3] of codes. Not clipped."""
        return self.decode_latents(self.config.quantizer.from_ids(codes), is_start)


class Encoder(nn.Module):
    """[B, T, Y, X, 3] in [0, 1] -> [B, 1 + (T - 1) / 4, Y / 8, X / 8, D]."""

    config: MagvitConfig
    remat_blocks: bool = False

    @nn.compact
    def __call__(self, video: Float[Array, "B T Y X 3"]) -> Float[Array, "B t h w D"]:
        config = self.config
        how = {"norm_over": config.encoder_norm, "remat_blocks": self.remat_blocks}
        stage_of = functools.partial(ResidualStage, config, **how)
        # The model's own range is [-1, 1]: the grey of an unlit network is mid-way.
        x = CausalConv3d(config.channels[0], use_bias=False, name="conv_in")(2.0 * video - 1.0)
        kernel = (config.strided_kernel,) * 3
        for stage, channels in enumerate(config.channels):
            x = stage_of(channels, name=f"stage_{stage}")(x)
            if stage < len(DOWN_STRIDES):
                x = CausalConv3d(channels, kernel, DOWN_STRIDES[stage], name=f"down_{stage}")(x)
        x = stage_of(config.channels[-1], name="bottleneck")(x)
        x = nn.swish(FrameGroupNorm(config.norm_groups, config.encoder_norm, name="norm_out")(x))
        return CausalConv3d(config.quantizer.num_channels, (1, 1, 1), name="conv_out")(x)


class Decoder(nn.Module):
    """[B, t, h, w, D] in [-1, 1] -> [B, 1 + 4 (t - 1), 8 h, 8 w, 3], about [0, 1]."""

    config: MagvitConfig
    remat_blocks: bool = False

    @nn.compact
    def __call__(
        self, quantized: Float[Array, "B t h w D"], is_start: bool = True
    ) -> Float[Array, "B T Y X 3"]:
        config, groups = self.config, self.config.norm_groups
        channels = config.channels[::-1]
        # Arguments 3 and 4 of its call, counted with the module, are not arrays.
        condition = _remat(AdaptiveGroupNorm, self.remat_blocks, static_argnums=(3, 4))
        stage_of = functools.partial(ResidualStage, config, remat_blocks=self.remat_blocks)
        x = CausalConv3d(channels[0], name="conv_in")(quantized)
        x = stage_of(channels[0], name="bottleneck")(x)
        stretch = (1, 1, 1)
        x = condition(groups, name="condition_0")(x, quantized, stretch, is_start)
        x = stage_of(channels[0], name="stage_0")(x)
        for stage, strides in enumerate(DOWN_STRIDES[::-1], start=1):
            x = Upsample(strides, name=f"up_{stage}")(x, is_start)
            stretch = tuple(a * b for a, b in zip(stretch, strides, strict=True))
            x = condition(groups, name=f"condition_{stage}")(x, quantized, stretch, is_start)
            x = stage_of(channels[stage], name=f"stage_{stage}")(x)
        x = nn.swish(FrameGroupNorm(groups, name="norm_out")(x))
        return 0.5 * (CausalConv3d(3, name="conv_out")(x) + 1.0)


def _remat(module: type[nn.Module], wanted: bool, **how) -> type[nn.Module]:
    return nn.remat(module, **how) if wanted else module


class ResidualStage(nn.Module):
    """`blocks_per_stage` residual blocks; the first one changes the number of channels."""

    config: MagvitConfig
    num_channels: int
    norm_over: str = "frame"
    remat_blocks: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "B T Y X C"]) -> Float[Array, "B T Y X _"]:
        num_groups = self.config.norm_groups
        residual = _remat(ResidualBlock, self.remat_blocks)
        for block in range(self.config.blocks_per_stage):
            name = f"block_{block}"
            x = residual(self.num_channels, num_groups, self.norm_over, name=name)(x)
        return x


class ResidualBlock(nn.Module):
    """x + conv(swish(norm(conv(swish(norm(x)))))), convolutions 3^3 without bias."""

    num_channels: int
    norm_groups: int
    norm_over: str = "frame"

    @nn.compact
    def __call__(self, x: Float[Array, "B T Y X C"]) -> Float[Array, "B T Y X _"]:
        skip = x
        for name in ("0", "1"):
            norm = FrameGroupNorm(self.norm_groups, self.norm_over, name=f"norm_{name}")
            x = nn.swish(norm(x))
            x = CausalConv3d(self.num_channels, use_bias=False, name=f"conv_{name}")(x)
        if skip.shape[-1] != self.num_channels:
            conv = CausalConv3d(self.num_channels, (1, 1, 1), use_bias=False, name="conv_skip")
            skip = conv(skip)
        return skip + x


class FrameGroupNorm(nn.Module):
    """Group norm whose statistics are of one frame, or of one place of it.

    Pooling over time would not be causal.
    """

    num_groups: int
    over: str = "frame"

    @nn.compact
    def __call__(self, x: Float[Array, "B T Y X C"]) -> Float[Array, "B T Y X C"]:
        scale = self.param("scale", nn.initializers.ones_init(), (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros_init(), (x.shape[-1],))
        if self.over == "place":
            return normalize_places(x, self.num_groups, scale, bias)
        return normalize_frames(x, self.num_groups, scale[None, None], bias[None, None])


class AdaptiveGroupNorm(nn.Module):
    """Group norm whose scale and shift are linear in the quantized latent at the same place."""

    num_groups: int

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T Y X C"],
        quantized: Float[Array, "B t h w D"],
        stretch: tuple[int, int, int],
        is_start: bool = True,
    ) -> Float[Array, "B T Y X C"]:
        """Args:
        stretch: Positions of x for one of `quantized`, in time, rows, columns.
        """
        ones, zeros = jnp.ones((1, 1, x.shape[-1])), jnp.zeros((1, 1, x.shape[-1]))
        # Linear first, stretched afterwards: the same numbers from fewer products.
        scale = 1.0 + nn.Dense(x.shape[-1], name="scale")(quantized)
        shift = nn.Dense(x.shape[-1], name="shift")(quantized)
        x = normalize_frames(x, self.num_groups, ones, zeros)
        scale, shift = (stretch_latents(each, stretch, is_start) for each in (scale, shift))
        return x * scale + shift


class Upsample(nn.Module):
    """Convolution to more channels, then channels to pixels; drops what precedes a clip's start.

    A channel index is (time, row, column, filter), the filter running fastest.
    """

    strides: tuple[int, int, int]

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T Y X C"], is_start: bool = True
    ) -> Float[Array, "B _ _ _ C"]:
        (batch, frames, rows, columns, channels), (st, sy, sx) = x.shape, self.strides
        x = CausalConv3d(st * sy * sx * channels, name="conv")(x)
        x = x.reshape(batch, frames, rows, columns, st, sy, sx, channels)
        x = x.transpose(0, 1, 4, 2, 5, 3, 6, 7)
        x = x.reshape(batch, frames * st, rows * sy, columns * sx, channels)
        return x[:, st - 1 :] if is_start else x


def stretch_latents(
    x: Float[Array, "B t h w C"], stretch: tuple[int, int, int], is_start: bool = True
) -> Array:
    """Nearest-neighbour stretching, at a clip's start without the first stretch[0] - 1 frames."""
    for axis, times in enumerate(stretch, start=1):
        x = jnp.repeat(x, times, axis=axis)
    return x[:, stretch[0] - 1 :] if is_start else x


def normalize_frames(x, num_groups, scale, bias, epsilon=1e-6):
    """Zero mean and unit variance over rows, columns and the channels of a group, in float32.

    Args:
      scale: [B or 1, T or 1, C], multiplied in the same pass.
      bias: As `scale`, added.
    """
    if x.shape[-1] % num_groups:
        raise ValueError(
            f"norm_groups={num_groups} must divide the {x.shape[-1]} channels; use a divisor."
        )
    x32 = x.astype(jnp.float32)
    mean = _mean_of_groups(x32, num_groups)
    variance = jnp.maximum(0.0, _mean_of_groups(x32 * x32, num_groups) - mean * mean)
    factor = scale * jax.lax.rsqrt(variance + epsilon)
    offset = bias - mean * factor
    return (x32 * factor[:, :, None, None] + offset[:, :, None, None]).astype(x.dtype)


def normalize_places(x, num_groups, scale, bias, epsilon=1e-3):
    """Zero mean and unit variance over the channels of a group at every place, in float32.

    Args:
      scale: [C], multiplied after; `bias`, [C], is added.
      epsilon: Large beside that of `normalize_frames`: a group of a flat place may be nearly equal
        in all its channels, and its rounding would be blown up.
    """
    grouped = x.astype(jnp.float32).reshape(*x.shape[:-1], num_groups, -1)
    grouped -= jnp.mean(grouped, axis=-1, keepdims=True)
    grouped *= jax.lax.rsqrt(jnp.mean(grouped * grouped, axis=-1, keepdims=True) + epsilon)
    lead = (None,) * (x.ndim - 1)
    return (grouped.reshape(x.shape) * scale[lead] + bias[lead]).astype(x.dtype)


def _mean_of_groups(x, num_groups):
    """[B, T, Y, X, C] -> [B, T, C]: mean of each frame's group, repeated for its channels."""
    num_pixels = x.shape[2] * x.shape[3]
    # A product with 1 / pixels: a reduction is no faster and takes XLA much longer to compile.
    share = jnp.full((num_pixels,), 1.0 / num_pixels)
    pixels = x.reshape(*x.shape[:2], num_pixels, x.shape[-1])
    means = jnp.einsum("n,btnc->btc", share, pixels, precision=jax.lax.Precision.HIGHEST)
    grouped = means.reshape(*means.shape[:2], num_groups, -1)
    grouped = jnp.broadcast_to(jnp.mean(grouped, axis=-1, keepdims=True), grouped.shape)
    return grouped.reshape(means.shape)


def init_params(config: MagvitConfig, key: Array):
    """Parameters for clips of any length and size: kernels of variance 1 / fan-in, scales of 1.

    The same distribution as the modules' own initializers, but all of it in one draw: drawing
    kernel by kernel takes XLA half a minute to compile.
    """
    # Sizes of parameters do not depend on the clip: the smallest one will do.
    video = jax.ShapeDtypeStruct((1, 1, PX_PER_TOKEN, PX_PER_TOKEN, 3), jnp.float32)
    shapes = jax.eval_shape(Magvit2(config).init, key, video)["params"]
    leaves, tree = jax.tree_util.tree_flatten_with_path(shapes)
    sizes = [math.prod(leaf.shape) for _, leaf in leaves]
    # The deviation of a normal cut at two deviations is 0.8796.
    draws = jax.random.truncated_normal(key, -2.0, 2.0, (sum(sizes),)) / 0.87962566
    filled, start = [], 0
    for (path, leaf), size in zip(leaves, sizes, strict=True):
        if path[-1].key == "kernel":
            fan_in = math.prod(leaf.shape[:-1])
            filled.append(draws[start : start + size].reshape(leaf.shape) / math.sqrt(fan_in))
        else:
            filled.append(jnp.full(leaf.shape, 1.0 if path[-1].key == "scale" else 0.0))
        start += size
    return jax.tree_util.tree_unflatten(tree, filled)

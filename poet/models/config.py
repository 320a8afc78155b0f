"""Everything that fixes the language model's parameters and how they are used."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from poet.layers import attention_choice, cudnn, position, splash
from poet.layers.eight_bit import MATMULS
from poet.layers.splash import SplashBlocks
from poet.layers.tiled_loss import LossTiles
from poet.models import block
from poet.models.block import BlockConfig
from poet.models.text_encoder import TextEncoderConfig
from poet.tokens.sequence import SEGMENT_KINDS
from poet.tokens.vocabulary import Vocabulary

_POLICIES = jax.checkpoint_policies


def _kernels_and(*names: str) -> Callable[..., bool]:
    """Keeps what has these names, and attention kernels' results, which are no products."""
    named = _POLICIES.save_only_these_names(splash.KEPT_NAME, *names)
    return _POLICIES.save_from_both_policies(named, cudnn.keeps_results)


# What else is kept beside products: on TPU, in place of the product of a rotation.
_NAMED = _kernels_and(position.KEPT_NAME)

# What the backward pass keeps, by name; "none" keeps everything (no rematerialisation).
REMAT_POLICIES = {
    "none": None,
    "full": _POLICIES.nothing_saveable,
    "attention": _kernels_and(),
    "dots": _POLICIES.save_from_both_policies(_POLICIES.dots_saveable, _NAMED),
    "dots_no_batch": _POLICIES.save_from_both_policies(
        _POLICIES.dots_with_no_batch_dims_saveable, _NAMED
    ),
    "dots_except_widening": _kernels_and(block.KEPT_NAME),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class GridLimits:
    """Largest coordinates the model has learned vectors for.

    Attributes:
      latent_frames: Of a clip.
      token_rows: Height in tokens.
      token_columns: Width in tokens.
      audio_frames: Of a clip.
      audio_levels: Of the residual quantizer.
    """

    latent_frames: int = 16
    token_rows: int = 32
    token_columns: int = 32
    audio_frames: int = 320
    audio_levels: int = 8

    @property
    def num_values(self) -> tuple[tuple[str, int], ...]:
        """Rows of each attribute's table; coordinates count from 1, 0 is not applicable."""
        return (
            ("segment", len(SEGMENT_KINDS)),
            ("t", 1 + self.latent_frames),
            ("h", 1 + self.token_rows),
            ("w", 1 + self.token_columns),
            ("audio_frame", 1 + self.audio_frames),
            ("level", 1 + self.audio_levels),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrefixLMConfig:
    """Everything that fixes the parameters' shapes and how they are used.

    Attributes:
      vocabulary: The id table, sizes from the tokenizers in use.
      text: The text encoder.
      num_layers: Blocks.
      d_model: D.
      num_heads: Query heads.
      num_kv_heads: Key/value heads; None means as many as query heads.
      head_dim: Width of a head; even.
      mlp_dim: Hidden width of the gated MLP.
      text_slots: Positions reserved for text (paper: 64).
      share_visual_bits: Visual codes with common bits have part of their vectors in common. Helps
        small runs; needs lookup-free codes, 2^n of them. The paper has one free vector a code.
      ties_embedding: Embedding and head are the same tables, which saves one of them in memory;
        logits are scaled so that they start as small as those of a head of its own.
      dropout_rate: Of channels of the residual stream's start and of what layers add to it, in
        training only; 0 for runs that see no example twice.
      limits: Largest coordinates.
      tiles: Cutting of the loss.
      dtype: Type of the products; parameters, residual stream, softmax and loss stay float32.
      matmuls: "plain", or "int8" or "fp8" for 8-bit products of attention's projections and of the
        MLP in training (`layers.eight_bit`); embedding, attention itself, head and loss stay plain.
      remat_policy: A name from ``REMAT_POLICIES``.
      row_multiple: Tables are padded to this many rows: 128 x the mesh's tensor axis.
      layers_per_iteration: Layers unrolled in one iteration of the loop over layers.
      attention: A name from ``attention_choice.ATTENTIONS``: "plain"; "splash", TPU's kernel;
        "cudnn", kernels of NVIDIA GPUs; "auto", which takes TPU's kernel on TPU where the order of
        tokens allows it, and is plain elsewhere: on no GPU was "cudnn" measured yet.
      attention_blocks: Of TPU's kernel.
    """

    vocabulary: Vocabulary = Vocabulary()
    text: TextEncoderConfig = TextEncoderConfig()
    num_layers: int = 24
    d_model: int = 1024
    num_heads: int = 16
    num_kv_heads: int | None = None
    head_dim: int = 64
    mlp_dim: int = 2816
    text_slots: int = 64
    share_visual_bits: bool = False
    ties_embedding: bool = False
    dropout_rate: float = 0.0
    limits: GridLimits = GridLimits()
    tiles: LossTiles = LossTiles()
    dtype: DTypeLike = jnp.float32
    matmuls: str = "plain"
    remat_policy: str = "none"
    row_multiple: int = 128
    layers_per_iteration: int = 1
    attention: str = "auto"
    attention_blocks: SplashBlocks = SplashBlocks()

    def __post_init__(self) -> None:
        if self.remat_policy not in REMAT_POLICIES:
            raise ValueError(
                f"remat_policy={self.remat_policy!r} is unknown; choose one of"
                f" {', '.join(REMAT_POLICIES)}."
            )
        if self.matmuls not in MATMULS:
            raise ValueError(
                f"matmuls={self.matmuls!r} is unknown; choose one of {', '.join(MATMULS)}."
            )
        attention_choice.check_name(self.attention)
        for name in ("num_layers", "d_model", "num_heads", "mlp_dim", "text_slots"):
            if getattr(self, name) < 1:
                raise ValueError(f"PrefixLMConfig {name}={getattr(self, name)} must be at least 1.")
        if not 0 <= self.dropout_rate < 1:
            raise ValueError(
                f"PrefixLMConfig dropout_rate={self.dropout_rate} must be in [0, 1); 0.1 is usual."
            )
        if self.head_dim % 2 or self.head_dim < 2:
            raise ValueError(f"head_dim={self.head_dim} must be even; rotary positions take pairs.")
        if self.num_kv_heads is not None and (
            self.num_kv_heads < 1 or self.num_heads % self.num_kv_heads
        ):
            raise ValueError(
                f"num_kv_heads={self.num_kv_heads} must divide num_heads={self.num_heads}."
            )
        if self.text.num_ids < self.vocabulary.num_text:
            raise ValueError(
                f"The text encoder has {self.text.num_ids} rows, the text tokenizer"
                f" {self.vocabulary.num_text} ids; set TextEncoderConfig.num_ids to at least that."
            )

    @property
    def visual_bits(self) -> int:
        """Bits whose vectors are shared, 0 for none; ValueError if there are not 2^n codes."""
        if not self.share_visual_bits:
            return 0
        bits = self.vocabulary.num_visual.bit_length() - 1
        if 2**bits != self.vocabulary.num_visual:
            raise ValueError(
                f"share_visual_bits needs a power of two of visual codes, got"
                f" {self.vocabulary.num_visual}; set PrefixLMConfig.share_visual_bits = False."
            )
        return bits

    @property
    def block(self) -> BlockConfig:
        """Sizes of one layer."""
        return BlockConfig(
            d_model=self.d_model,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads or self.num_heads,
            head_dim=self.head_dim,
            mlp_dim=self.mlp_dim,
            # Both halves of every layer add up; this keeps the stream's variance near 1.
            residual_scale=1 / (2 * self.num_layers),
            dropout_rate=self.dropout_rate,
            dtype=self.dtype,
            matmuls=self.matmuls,
            attention=self.attention,
            attention_blocks=self.attention_blocks,
        )

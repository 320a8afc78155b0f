"""Model FLOPs of a training step, counted from sizes; a compiled program never decides them.

What is counted: the head at output positions only, attention between rows that may see each other,
the backward pass as twice the forward one, the text encoder by its own sizes. What is not:
recomputation, padding, look-ups, norms and everything else that is no matrix product.
"""

import dataclasses

from poet.layers.attention import part_ends
from poet.models.config import PrefixLMConfig
from poet.models.text_encoder import TextEncoderConfig
from poet.tokens.sequence import SequencePlan


@dataclasses.dataclass(frozen=True)
class ExampleFlops:
    """Forward FLOPs of one example, by part."""

    layers: float
    attention: float
    head: float
    text: float

    @property
    def total(self) -> float:
        """All parts."""
        return self.layers + self.attention + self.head + self.text


def example_flops(
    config: PrefixLMConfig, plan: SequencePlan, *, as_computed: bool = False
) -> ExampleFlops:
    """Forward FLOPs of one example of a plan.

    Args:
      config: The model's.
      plan: Prefix of P rows, N = length - 1 rows in all.
      as_computed: Attention as `prefix_attention` computes it, each part's rows against the keys
        up to its end, instead of the pairs that are needed, P x P and P + 1 to N.
    """
    rows, prefix = plan.length - 1, plan.prefix_length
    pairs = prefix**2 + (rows * (rows + 1) - prefix * (prefix + 1)) / 2
    if as_computed:
        ends = part_ends(prefix, rows)
        pairs = sum((end - start) * end for start, end in zip([0, *ends], ends, strict=False))
    queries = config.num_heads * config.head_dim
    vocabulary = sum(segment.num_ids for segment in config.vocabulary.segments)
    text = 0.0
    if plan.text_slot is not None:
        slots = plan.num_text_slots
        text = text_flops(config.text, slots) + 2.0 * slots * config.text.d_model * config.d_model
    return ExampleFlops(
        layers=2.0 * rows * layer_weights(config) * config.num_layers,
        attention=4.0 * pairs * queries * config.num_layers,
        head=2.0 * (rows - prefix) * config.d_model * vocabulary,
        text=text,
    )


def layer_weights(config: PrefixLMConfig) -> int:
    """Numbers in the kernels of one layer."""
    queries = config.num_heads * config.head_dim
    keys = config.block.num_kv_heads * config.head_dim
    return config.d_model * (2 * queries + 2 * keys + 3 * config.mlp_dim)


def text_flops(config: TextEncoderConfig, slots: int) -> float:
    """Forward FLOPs of the text encoder for one text; it attends to all slots."""
    heads = config.num_heads * config.head_dim
    kernels = config.d_model * (4 * heads + (3 if config.is_gated else 2) * config.mlp_dim)
    return config.num_layers * (2.0 * slots * kernels + 4.0 * slots**2 * heads)


def step_flops(
    config: PrefixLMConfig,
    plan: SequencePlan,
    batch_size: int,
    text_is_frozen: bool = False,
    has_adapters: bool = False,
) -> float:
    """Model FLOPs of a training step: three times the forward pass, once for a frozen encoder.

    With adapters twice, and the encoder once: what is adapted has no gradients of its own, and
    the adapters' products are not counted.
    """
    each = example_flops(config, plan)
    passes = 2.0 if has_adapters else 3.0
    text_passes = 1.0 if text_is_frozen or has_adapters else 3.0
    return batch_size * (passes * (each.total - each.text) + text_passes * each.text)

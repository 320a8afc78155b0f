"""How many parameters a language model has, by part, from shapes alone."""

from typing import Any

import jax
from flax.core import meta

from poet.models.config import PrefixLMConfig
from poet.models.prefix_lm import PrefixLM
from poet.tokens import sequence, tasks
from poet.tokens.clip import ClipShape

# Part -> top-level names of parameters. The size that a model is called by is that of its blocks.
PARTS = {
    "blocks": ("layers", "final_norm"),
    "embedding": ("embed",),
    "head": ("head",),
    "positions": ("here", "next"),
    "text input": ("text_projection", "text_pad"),
    "text encoder": ("text_encoder",),
}


def parameter_shapes(config: PrefixLMConfig) -> Any:
    """Shapes of all parameters, with their logical axes in flax's boxes; nothing is made.

    They do not depend on a clip's size or on a task.
    """
    task = tasks.get("unconditional")
    plan = sequence.plan(task, ClipShape(1, 8, 8), None, config.text_slots, config.vocabulary)
    batch = {
        "decoder_input_tokens": jax.ShapeDtypeStruct((1, plan.length - 1), "int32"),
        "text_ids": jax.ShapeDtypeStruct((1, 1), "int32"),
    }
    key = jax.eval_shape(lambda: jax.random.key(0))
    make = jax.eval_shape(lambda key, batch: PrefixLM(config).init(key, plan, batch), key, batch)
    return make["params"]


def count_by_part(params: Any) -> dict[str, int]:
    """Scalars of each part of ``PARTS`` that these parameters (or their shapes) have.

    Tables count with their padding rows, as they lie in memory. What belongs to no part, such as
    the parameters of another kind of model, is counted as "other".
    """
    sizes = {
        name: sum(leaf.size for leaf in jax.tree.leaves(tree))
        for name, tree in meta.unbox(params).items()
    }
    counts = {part: sum(sizes.pop(name, 0) for name in names) for part, names in PARTS.items()}
    counts["other"] = sum(sizes.values())
    return {part: int(count) for part, count in counts.items() if count}


def in_words(counts: dict[str, int]) -> str:
    """Such as: 1,234 (blocks 1,000, embedding 234)."""
    parts = ", ".join(f"{part} {count:,}" for part, count in counts.items())
    return f"{sum(counts.values()):,} ({parts})"

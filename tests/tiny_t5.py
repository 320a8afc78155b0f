"""A random T5 encoder as Hugging Face lays it out: shared by tests/models and tests/train."""

import json

import numpy as np
from safetensors.numpy import save_file

# 3 heads of 8 are not 16.
SIZES = {
    "vocab_size": 50,
    "d_model": 16,
    "d_kv": 8,
    "num_heads": 3,
    "num_layers": 2,
    "d_ff": 20,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
}
KINDS = {"gated": "gated-gelu", "ungated": "relu"}


def config_of(kind, **changes):
    facts = {"model_type": "t5", "feed_forward_proj": KINDS[kind], "layer_norm_epsilon": 1e-6}
    return facts | SIZES | changes


def tensors_of(kind, seed=0, vocab_size=SIZES["vocab_size"]):
    """A random encoder under the published names, as torch stores it."""
    inner, dim = SIZES["d_kv"] * SIZES["num_heads"], SIZES["d_model"]
    shapes = {
        "shared.weight": (vocab_size, dim),
        "encoder.final_layer_norm.weight": (dim,),
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (8, 3),
    }
    for index in range(SIZES["num_layers"]):
        block = f"encoder.block.{index}.layer"
        shapes |= {f"{block}.{sub}.layer_norm.weight": (dim,) for sub in (0, 1)}
        shapes |= {f"{block}.0.SelfAttention.{x}.weight": (inner, dim) for x in "qkv"}
        shapes[f"{block}.0.SelfAttention.o.weight"] = (dim, inner)
        for name in ("wi_0", "wi_1") if kind == "gated" else ("wi",):
            shapes[f"{block}.1.DenseReluDense.{name}.weight"] = (SIZES["d_ff"], dim)
        shapes[f"{block}.1.DenseReluDense.wo.weight"] = (dim, SIZES["d_ff"])
    draw = np.random.default_rng(seed)
    return {
        name: (draw.normal(size=shape) * 0.3 + len(shape) % 2).astype(np.float32)
        for name, shape in shapes.items()
    }


def write(folder, kind="gated", tensors=None):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config_of(kind)))
    save_file(tensors_of(kind) if tensors is None else tensors, folder / "model.safetensors")
    return folder

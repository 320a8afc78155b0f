"""Sizes of the language model by name, for the benchmarks: gin's model files, and two more."""

import argparse
from typing import Any

# Read from gin/models, so that a benchmark measures the model that a run trains.
GIN_MODELS = ("tiny", "demo", "300m", "1b", "8b")
# The two sizes of other stacks' figures.
_OTHERS = {
    "A": {"layers": 4, "d_model": 256, "heads": 4, "mlp": 1024, "vocab": 8192},
    "B": {"layers": 4, "d_model": 256, "heads": 4, "mlp": 1024, "vocab": 270_000},
}
NAMES = (*_OTHERS, *GIN_MODELS)
# Visual codes, which are the tokenizer's and stand in no model file: the paper's, or a small one's.
_PAPER_CODES, _SMALL_CODES = 262_144, 1024


def sizes_of(name: str) -> dict[str, Any]:
    """Flag of a benchmark -> its value, of one of `NAMES`.

    Only sizes are a preset's: types, rematerialisation and shared bit vectors are not.
    """
    if name in _OTHERS:
        return dict(_OTHERS[name])
    import gin

    from poet.main import commands
    from poet.models.config import PrefixLMConfig

    commands.read_gin([f"gin/models/{name}.gin"], [])
    config = gin.get_configurable(PrefixLMConfig)()
    gin.clear_config()
    assert config.head_dim * config.num_heads == config.d_model, "benchmarks divide the width"
    return {
        "layers": config.num_layers,
        "d_model": config.d_model,
        "heads": config.num_heads,
        "kv_heads": config.num_kv_heads,
        "mlp": config.mlp_dim,
        "vocab": _SMALL_CODES if name in ("tiny", "demo") else _PAPER_CODES,
    }


def fill_in(args: argparse.Namespace) -> None:
    """Sets the sizes that no flag set to those of `args.preset`."""
    for name, value in sizes_of(args.preset).items():
        if getattr(args, name) is None:
            setattr(args, name, value)

"""Measures the tiled loss and the prefix attention beside their plain forms.

    python tools/benchmark.py loss --num_tokens 4096 --num_ids 270000 --d_model 256
    python tools/benchmark.py loss --num_tokens 65536 --num_ids 300000 --d_model 2048 --no_plain
    python tools/benchmark.py attention --length 1351 --prefix 71 --heads 16 --head_dim 128
    python tools/benchmark.py attention --kernel cudnn --dtype bfloat16          on an NVIDIA GPU
    python tools/benchmark.py attention --kernel splash --dtype bfloat16         on a TPU

Prints one JSON line. Each form is compiled with its gradients; temporary memory is what XLA says
the compiled program needs beyond arguments and results.
"""

import argparse
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from tools.measuring import median_seconds


def main(what: str, argv: list[str]) -> int:
    """Runs "loss" or "attention" and prints its line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--dtype", default="float32", choices=("float32", "bfloat16"), help="of the products")
    add("--repeats", type=int, default=5, help="calls; the median is shown")
    add("--no_plain", action="store_true", help="leave out the plain form, where it does not fit")
    add("--compile_only", action="store_true", help="memory alone, for sizes that would run long")
    sizes = _LOSS_SIZES if what == "loss" else _ATTENTION_SIZES
    for name, value in sizes.items():
        add(f"--{name}", type=int, default=value)
    if what == "attention":
        add("--kernel", choices=_KERNELS, help="measured beside the others; see PrefixLMConfig")
    args = parser.parse_args(argv)
    forms, inputs = (_loss if what == "loss" else _attention)(args)
    facts: dict[str, Any] = {
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "setting": vars(args),
    }
    for name, form in forms.items():
        if name != "plain" or not args.no_plain:
            facts[name] = _measured(form, inputs, args)
    print(json.dumps(facts))
    return 0


_LOSS_SIZES = {"num_tokens": 4096, "num_ids": 270_000, "d_model": 256}
_ATTENTION_SIZES = {"batch": 2, "length": 1351, "prefix": 71, "heads": 16, "head_dim": 64}
_KERNELS = ("splash", "splash_interpreted", "cudnn")


def _loss(args: argparse.Namespace) -> tuple[dict[str, Callable[..., Any]], Any]:
    """Losses of hidden states [tokens, width] and a table [ids, width]."""
    from poet.layers.tiled_loss import LossTiles, tiled_cross_entropy

    tiles = LossTiles(z_loss=0.0)

    def tiled(hidden: Any, table: Any, targets: Any) -> Any:
        weights = jnp.ones(len(hidden), jnp.float32)
        total, _ = tiled_cross_entropy(hidden, (table,), (args.num_ids,), targets, weights, tiles)
        return total

    def plain(hidden: Any, table: Any, targets: Any) -> Any:
        logits = jnp.matmul(hidden, table.T, preferred_element_type=jnp.float32)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[:, None], axis=1)
        return -chosen.sum()

    key, shape = jax.random.key(0), (args.num_tokens, args.d_model)
    hidden = jax.ShapeDtypeStruct(shape, args.dtype)
    table = jax.ShapeDtypeStruct((args.num_ids, args.d_model), args.dtype)
    targets = jax.ShapeDtypeStruct((args.num_tokens,), jnp.int32)

    def make() -> Any:
        drawn = (0.05 * jax.random.normal(key, each.shape, each.dtype) for each in (hidden, table))
        return *drawn, jax.random.randint(key, targets.shape, 0, args.num_ids)

    return {"tiled": tiled, "plain": plain}, ((hidden, table, targets), make)


def _attention(args: argparse.Namespace) -> tuple[dict[str, Callable[..., Any]], Any]:
    """Sums of attention's output, from queries, keys and values."""
    from poet.layers.attention import masked_attention, prefix_attention
    from poet.layers.attention_choice import chosen
    from poet.layers.cudnn import cudnn_attention
    from poet.layers.mask import prefix_lm_mask
    from poet.layers.splash import splash_attention

    if args.kernel:
        chosen(args.kernel)  # refuses one that is not for this device

    def kernel(q: Any, k: Any, v: Any) -> Any:
        if args.kernel == "cudnn":
            out = cudnn_attention(q, k, v, args.prefix)
        else:
            is_interpreted = args.kernel == "splash_interpreted"
            out = splash_attention(q, k, v, args.prefix, is_interpreted=is_interpreted)
        return out.astype(jnp.float32).sum()

    def prefix(q: Any, k: Any, v: Any) -> Any:
        return prefix_attention(q, k, v, args.prefix).astype(jnp.float32).sum()

    def plain(q: Any, k: Any, v: Any) -> Any:
        mask = prefix_lm_mask(args.length, args.prefix)
        return masked_attention(q, k, v, mask).astype(jnp.float32).sum()

    shape = (args.batch, args.length, args.heads, args.head_dim)
    each = jax.ShapeDtypeStruct(shape, args.dtype)

    def make() -> Any:
        return tuple(
            jax.random.normal(jax.random.key(seed), shape, args.dtype) for seed in range(3)
        )

    forms = {"prefix": prefix, "plain": plain}
    return forms | ({args.kernel: kernel} if args.kernel else {}), ((each,) * 3, make)


def _measured(form: Callable[..., Any], inputs: Any, args: argparse.Namespace) -> dict[str, Any]:
    shapes, make = inputs
    argnums = tuple(i for i, each in enumerate(shapes) if jnp.issubdtype(each.dtype, jnp.floating))
    compiled = jax.jit(jax.value_and_grad(form, argnums)).lower(*shapes).compile()
    memory = compiled.memory_analysis()
    facts: dict[str, Any] = {"temporary_bytes": int(memory.temp_size_in_bytes)}
    if not args.compile_only:
        values = jax.jit(make)()
        facts["median_s"] = median_seconds(
            lambda: jax.block_until_ready(compiled(*values)), args.repeats
        )
        facts["value"] = float(compiled(*values)[0])
    return facts

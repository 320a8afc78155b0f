"""Measures decoding of the language model, on drawn weights, beside what memory can deliver.

    python tools/benchmark.py decode --preset A --temperature 1
    python tools/benchmark.py decode --preset 8b --batch 4 --new 2240 --dtype bfloat16
    python tools/benchmark.py decode --preset A --against torch        (make setup EXTRAS=torch)

Prints one JSON line. A step reads the weights of all layers, the slot's head, and the keys and
values written so far; the bandwidth is that of a large sum in the same run, and the roofline share
is the time those bytes take at that bandwidth, over the time of a step. With guidance every request
is two rows, and tokens are counted once.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tools import presets
from tools.measuring import peak_memory_bytes, seconds_of

# <bos>, <task> and the text's delimiters.
_PREFIX_DELIMITERS = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tools/benchmark.py decode`."""
    add = parser.add_argument
    add("--preset", choices=presets.NAMES, default="A", help="sizes; the flags below change them")
    for name in ("layers", "d_model", "heads", "mlp", "vocab", "kv_heads"):
        add(f"--{name}", type=int, help="of the model")
    add("--batch", type=int, default=4, help="requests")
    add("--prefix", type=int, default=128, help="positions before the first written one")
    add("--new", type=int, default=384, help="tokens written a request")
    add("--guidance", type=float, default=1.0)
    add("--temperature", type=float, default=1.0)
    add("--top_k", type=int, default=0)
    add("--top_p", type=float, default=1.0)
    add("--dtype", default="float32", choices=("float32", "bfloat16"), help="of the products")
    add("--weight_dtype", default="model", choices=("model", "bfloat16", "int8"))
    add("--cache_dtype", default="model", choices=("model", "bfloat16", "int8"))
    add("--block", type=int, default=256, help="positions by which caches grow")
    add("--schedule", default="raster", choices=("raster", "diagonal"))
    add("--frame", type=int, default=256, help="tokens of a latent frame, in rows of 16")
    add("--repeats", type=int, default=3, help="whole generations; the median is shown")
    add("--against", choices=("torch",), help="in turns with `transformers` generate")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All figures of one size; see the module."""
    from poet.sample import decode
    from poet.sample.requests import SamplingRequest
    from poet.tokens import schedule

    config, plan = model_of(args)
    order = schedule.Schedule(args.schedule)
    decoding = decode.Decoding(cache_dtype=args.cache_dtype, block=args.block, schedule=order)
    request = SamplingRequest(
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        guidance=args.guidance,
    )
    params = _drawn(config, plan, args.weight_dtype)
    rng = np.random.default_rng(0)
    fields = {"text_ids": rng.integers(3, 255, (args.batch, plan.num_text_slots))}

    def run(say: Any = None) -> None:
        decode.generate(params, config, plan, fields, request, decoding=decoding, say=say)

    compile_s, first_s = seconds_of(run), _first_frame(run)
    rivals = {"poet": run}
    if args.against == "torch":
        rivals["torch"] = _torch_generate(args)
    seconds = {name: [] for name in rivals}
    for _ in range(args.repeats):
        for name, rival in rivals.items():
            seconds[name].append(seconds_of(rival))
    total, peak = float(np.median(seconds["poet"])), peak_memory_bytes()
    num_passes = schedule.describe(plan, order)["passes"]
    read = _bytes_a_step(args, config, params, num_passes)
    bandwidth = measure_bandwidth()
    facts = {
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "setting": {k: v for k, v in vars(args).items() if v is not None and k not in _NOT_SHOWN},
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params["layers"])),
        "tokens_per_s": args.batch * args.new / total,
        "passes_per_s": num_passes / total,
        "ms_a_step": 1e3 * total / num_passes,
        "total_s": total,
        "first_frame_s": first_s,
        "first_call_s": compile_s,
        "bytes_a_step": read,
        "bytes_per_s": bandwidth,
        "roofline_share": read / bandwidth / (total / num_passes),
        "peak_memory_bytes": peak,
    }
    if "torch" in seconds:
        theirs = float(np.median(seconds["torch"]))
        facts["torch_tokens_per_s"] = args.batch * args.new / theirs
        facts["ratio_to_torch"] = theirs / total
    return facts


_NOT_SHOWN = ("what", "run", "json")


def model_of(args: argparse.Namespace) -> tuple[Any, Any]:
    """A config, and a plan with the prefix and output asked for; fills in the preset's sizes."""
    from poet.models.config import GridLimits, PrefixLMConfig
    from poet.models.text_encoder import TextEncoderConfig
    from poet.tokens import sequence, tasks
    from poet.tokens.clip import ClipShape
    from poet.tokens.vocabulary import Vocabulary

    presets.fill_in(args)
    num_slots = args.prefix - _PREFIX_DELIMITERS
    if num_slots < 1 or args.new < 1 or args.d_model % args.heads:
        raise SystemExit(
            f"Expected --prefix of {_PREFIX_DELIMITERS + 1} or more, --new of 1 or more and heads"
            f" that divide d_model, got {args.prefix}, {args.new}, {args.heads}, {args.d_model}."
        )
    whole_frames = args.frame % 16 == 0 and args.new % args.frame == 0
    rows, columns = (args.frame // 16, 16) if whole_frames else (1, args.new)
    num_latent = args.new // (rows * columns)
    clip = ClipShape(1 + 4 * (num_latent - 1), 8 * rows, 8 * columns)
    vocabulary = Vocabulary(num_visual=args.vocab, audio_levels=(16,), num_text=256)
    config = PrefixLMConfig(
        vocabulary=vocabulary,
        text=TextEncoderConfig(
            num_ids=256, num_layers=1, d_model=64, num_heads=1, head_dim=64, mlp_dim=64
        ),
        num_layers=args.layers,
        d_model=args.d_model,
        num_heads=args.heads,
        num_kv_heads=args.kv_heads,
        head_dim=args.d_model // args.heads,
        mlp_dim=args.mlp,
        text_slots=num_slots,
        limits=GridLimits(latent_frames=num_latent, token_rows=rows, token_columns=columns),
        dtype=jnp.dtype(args.dtype),
    )
    # Open-ended: every position after the prefix is a token that is written.
    task = dataclasses.replace(
        tasks.get("text_to_image"), outputs=tasks.get("text_to_video").outputs
    )
    return config, sequence.plan(task, clip, None, num_slots, vocabulary)


def _drawn(config: Any, plan: Any, weight_dtype: str) -> Any:
    """Weights in the layout of sampling, drawn there: a large model is never held in float32."""
    from flax.core import meta

    from poet.models.prefix_lm import PrefixLM
    from poet.sample import decode
    from poet.tokens import sequence

    fields = {
        "text_ids": np.zeros((1, plan.num_text_slots), np.int32),
        "visual": np.zeros((1, *plan.clip.grid), np.int32),
    }
    batch = sequence.assemble(plan, fields)

    def laid_out(key: Any) -> Any:
        params = meta.unbox(PrefixLM(config).init(key, plan, batch)["params"])
        return decode.prepare_for_sampling(params, config, weight_dtype)

    shapes, rng = jax.eval_shape(laid_out, jax.random.key(0)), np.random.default_rng(0)
    some = {
        dtype: rng.normal(size=2**20).astype(np.float32) for dtype in ("float32", "bfloat16")
    } | {"int8": rng.integers(-127, 128, 2**20)}
    return jax.tree.map(lambda leaf: _repeated(some[str(leaf.dtype)], leaf), shapes)


def _repeated(values: np.ndarray, leaf: Any) -> jax.Array:
    """The values over and over, in the leaf's shape; around 1 for scales and norms."""
    if len(leaf.shape) == 1 and leaf.dtype != jnp.int8:
        return jnp.ones(leaf.shape, leaf.dtype)

    def make(row: jax.Array) -> jax.Array:
        count = -(-leaf.size // row.size)
        return jnp.tile(row, count)[: leaf.size].reshape(leaf.shape)

    scale = 1 if leaf.dtype == jnp.int8 else 0.02
    return jax.jit(make)(jnp.asarray(values * scale).astype(leaf.dtype))


def _bytes_a_step(args: Any, config: Any, params: Any, num_passes: int) -> float:
    """Weights of a step, and the keys and values live on average."""
    weights = (params["layers"], params["heads"]["visual"])
    rows = args.batch * (2 if args.guidance != 1 else 1)
    names = {"model": args.dtype, "bfloat16": "bfloat16", "int8": "int8"}
    width = jnp.dtype(names[args.cache_dtype]).itemsize
    per_position = 2 * config.num_layers * config.block.num_kv_heads * (
        config.head_dim * width + (4 if args.cache_dtype == "int8" else 0)
    )  # fmt: skip
    live = args.prefix + args.new / 2
    return float(sum(leaf.nbytes for leaf in jax.tree.leaves(weights)) + rows * live * per_position)


def measure_bandwidth(num_bytes: int = 2**28) -> float:
    """Bytes a second at which a large array is read and summed."""
    is_cpu = jax.default_backend() == "cpu"
    values = jnp.ones(num_bytes * (1 if is_cpu else 8) // 4, jnp.float32)
    total = jax.jit(jnp.sum)
    seconds = [seconds_of(lambda: total(values).block_until_ready()) for _ in range(10)]
    return values.nbytes / min(seconds[1:])


def _first_frame(run: Callable[[Any], None]) -> float:
    """Seconds until the first latent frame can be read, programs of that cut compiled."""

    def until_first() -> float:
        start, found = time.perf_counter(), []

        def say(progress: Any) -> None:
            if progress.latent_frames and not found:
                progress.written()
                found.append(time.perf_counter() - start)

        run(say)
        return found[0]

    until_first()
    return until_first()


def _torch_generate(args: argparse.Namespace) -> Callable[[], None]:
    """The same sizes by `transformers`: a Llama, whose embedding is tied."""
    try:
        import torch
        import transformers
    except ImportError as error:
        raise SystemExit(f"{error.name} is not installed; make setup EXTRAS=torch.") from error
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=args.vocab,
        hidden_size=args.d_model,
        intermediate_size=args.mlp,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        num_key_value_heads=args.kv_heads or args.heads,
        max_position_embeddings=args.prefix + args.new,
        tie_word_embeddings=True,
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, args.dtype)
    model = transformers.LlamaForCausalLM(config).to(device=device, dtype=dtype).eval()
    ids = torch.randint(3, args.vocab, (args.batch, args.prefix), device=device)
    choice = {"do_sample": args.temperature > 0}
    if args.temperature > 0:
        choice |= {"temperature": args.temperature, "top_k": args.top_k, "top_p": args.top_p}

    def run() -> None:
        with torch.inference_mode():
            made = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=args.new,
                min_new_tokens=args.new,
                pad_token_id=0,
                **choice,
            )
        made.cpu()

    run()
    return run


def main(argv: list[str]) -> int:
    """Runs the benchmark and prints its line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    print(json.dumps(measure(parser.parse_args(argv))))
    return 0

"""Measures a training step of the language model, on drawn ids, beside what the device can do.

    python tools/benchmark.py train --preset A
    python tools/benchmark.py train --preset B --against torch            (make setup EXTRAS=torch)
    python tools/benchmark.py train --preset 1b --dtype bfloat16 --batch 16 --remat full
    python tools/benchmark.py train --preset 8b --layers 8 --dtype bfloat16 --matmuls int8

Prints one JSON line. A step is forward pass, backward pass and AdamW's update, the state donated.
Tokens a second count all positions, prefix included. Model FLOP (`poet/models/flops.py`) have the
whole vocabulary at output positions ("vocabulary" says how much of them that is), attention between
the pairs that may see each other, and no recomputation; MFU is their rate over that of a large
matrix product of the same type ("peak_dtype") in the same run.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from poet.layers.attention_choice import ATTENTIONS
from tools import benchmark_decode, presets
from tools.measuring import measure_peak_flops, peak_memory_bytes, seconds_of

# Length, batch, prefix. A and B: the two sizes of other stacks' figures, whose text is not encoded;
# the others: text-to-video of 17 square frames, of 32 pixels or at the paper's sizes.
_LENGTHS = {
    "A": (512, 4, 5),
    "B": (1024, 2, 128),
    "tiny": (150, 8, 68),
    "demo": (102, 20, 20),
}
_VIDEO = (1351, 8, 69)
# Where the codes that are written begin and end.
_CODE_DELIMITERS = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tools/benchmark.py train`."""
    add = parser.add_argument
    add("--preset", choices=presets.NAMES, default="A", help="sizes; the flags below change them")
    for name in ("layers", "d_model", "heads", "mlp", "vocab", "kv_heads"):
        add(f"--{name}", type=int, help="of the model")
    add("--length", type=int, help="positions, prefix included")
    add("--prefix", type=int, help="positions that are given, 5 or more")
    add("--batch", type=int, help="examples a step")
    add("--dtype", default="float32", choices=("float32", "bfloat16"), help="of the products")
    add("--matmuls", default="plain", help="plain, or int8 or fp8 by qwix; see PrefixLMConfig")
    add("--attention", choices=ATTENTIONS, default="auto", help="see PrefixLMConfig")
    add("--remat", default="none", help="what the backward pass keeps; see PrefixLMConfig")
    add("--tied", action="store_true", help="embedding and head are one table, as torch's side has")
    add("--unroll", type=int, help="layers in one iteration of the loop over layers; all on a CPU")
    add(
        "--steps", type=int, default=10, help="that are timed, after one that compiles and one more"
    )
    add("--against", choices=("torch",), help="in turns with a Llama of `transformers`")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All figures of one size; see the module."""
    from poet.models import flops

    _complete(args)
    config, plan = benchmark_decode.model_of(args)
    rival = _Torch(args) if args.against else None
    step, state, batches = _program(args, config, plan)
    seconds: dict[str, list[float]] = {"poet": [], "torch": []}
    measures: dict[str, Any] = {}

    def run(number: int) -> None:
        nonlocal state, measures
        state, measures = step(state, batches[number % len(batches)], jax.random.key(0))
        jax.block_until_ready((state.params, measures))

    compile_s = seconds_of(lambda: run(0))
    run(1)
    for number in range(args.steps):
        seconds["poet"].append(seconds_of(lambda number=number: run(2 + number)))
        if rival:
            seconds["torch"].append(rival.step())
    memory, median = peak_memory_bytes(), float(np.median(seconds["poet"]))
    work = flops.step_flops(config, plan, args.batch)
    peak = measure_peak_flops(args.dtype)
    facts = {
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "setting": {k: v for k, v in vars(args).items() if v is not None and k not in _NOT_SHOWN},
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "compile_s": compile_s,
        "median_step_s": median,
        "tokens_per_s": args.batch * args.length / median,
        "model_flops": work,
        "vocabulary": _vocabulary(config, plan, args.batch, work),
        "achieved_flops": work / median,
        "peak_flops": peak,
        "peak_dtype": args.dtype,
        "mfu": work / median / peak,
        "peak_memory_bytes": memory,
        "loss_nats": float(measures["loss_nats"]),
    }
    if rival:
        theirs = float(np.median(seconds["torch"]))
        facts |= {
            "torch_tokens_per_s": args.batch * args.length / theirs,
            "torch_peak_memory_bytes": rival.close(),
            "ratio_to_torch": theirs / median,
        }
    return facts


def _vocabulary(config: Any, plan: Any, batch: int, work: float) -> dict[str, Any]:
    """How the head is counted in a step's model FLOPs: all ids, at positions that are predicted."""
    from poet.models import flops

    head = 3 * batch * flops.example_flops(config, plan).head
    return {
        "is_counted": True,
        "ids": config.vocabulary.size,
        "positions": batch * (plan.length - 1 - plan.prefix_length),
        "share_of_model_flops": head / work,
    }


_NOT_SHOWN = ("what", "run", "json", "new", "frame")


def _complete(args: argparse.Namespace) -> None:
    """Fills in the preset's lengths, and what the model's sizes are made from."""
    found = _LENGTHS.get(args.preset, _VIDEO)
    for name, value in zip(("length", "batch", "prefix"), found, strict=True):
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.length < args.prefix + _CODE_DELIMITERS + 1 or args.batch < 1 or args.steps < 1:
        raise SystemExit(
            "Expected a --length of --prefix + 3 or more, and --batch and --steps of 1 or more,"
            f" got {args.length}, {args.prefix}, {args.batch} and {args.steps}."
        )
    args.new, args.frame = args.length - args.prefix - _CODE_DELIMITERS, 256


def _program(args: argparse.Namespace, config: Any, plan: Any) -> tuple[Any, Any, Any]:
    """(compiled step, state, two batches)."""
    import dataclasses

    import optax
    from flax.core import meta

    from poet.models.prefix_lm import PrefixLM
    from poet.tokens import sequence
    from poet.train import compiling, state, step

    unroll = args.unroll or (config.num_layers if jax.default_backend() == "cpu" else 1)
    config = dataclasses.replace(
        config,
        attention=args.attention,
        remat_policy=args.remat,
        matmuls=args.matmuls,
        layers_per_iteration=unroll,
        ties_embedding=args.tied,
    )
    model, tx, draw = PrefixLM(config), optax.adamw(1e-3), np.random.default_rng(0)

    def drawn() -> Any:
        fields = {
            "text_ids": draw.integers(3, 255, (args.batch, plan.num_text_slots)),
            "visual": draw.integers(0, args.vocab, (args.batch, *plan.clip.grid)),
        }
        return jax.device_put(sequence.assemble(plan, fields))

    batches = [drawn(), drawn()]
    one = jax.tree.map(lambda leaf: jnp.zeros((1, *leaf.shape[1:]), leaf.dtype), batches[0])

    def init(key: Any) -> Any:
        params = meta.unbox(model.init(key, plan, one)["params"])
        return state.create(params, tx.init(params))

    def loss(params: Any, batch: Any, key: Any) -> Any:
        del key
        return model.apply({"params": params}, plan, batch, method="loss")

    begun = compiling.run_once(init, jax.random.key(0))
    return jax.jit(step.make_step(loss, tx), donate_argnums=0), begun, batches


class _Torch:
    """The other stack in a process of its own, so that its memory is its own."""

    def __init__(self, args: argparse.Namespace):
        names = ("layers", "d_model", "heads", "mlp", "vocab", "kv_heads", "length", "batch")
        sizes = {name: getattr(args, name) for name in names} | {"dtype": args.dtype}
        program = Path(__file__).with_name("torch_train.py")
        self._process = subprocess.Popen(
            [sys.executable, str(program), json.dumps(sizes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()  # one step for it to get ready

    def step(self) -> float:
        """Seconds of one more step."""
        self._ask("step")
        return float(self._answer())

    def close(self) -> int:
        """Ends it; its peak memory in bytes."""
        self._ask("memory")
        found = int(self._answer())
        self._ask("end")
        self._process.wait()
        return found

    def _ask(self, word: str) -> None:
        assert self._process.stdin is not None
        print(word, file=self._process.stdin, flush=True)

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            raise SystemExit(
                "The PyTorch side ended without an answer; its message is above. It needs torch"
                " and transformers: make setup EXTRAS=torch."
            )
        return line


def main(argv: list[str]) -> int:
    """Runs the benchmark and prints its line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    start = time.perf_counter()
    facts = measure(parser.parse_args(argv))
    print(json.dumps(facts | {"total_s": time.perf_counter() - start}))
    return 0

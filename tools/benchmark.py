"""Measures parts of Poet on whatever device is there, next to what the device can do.

    python tools/benchmark.py tokenizer --gin_file=gin/tokenizers/visual_demo.gin --size_px=32
    python tools/benchmark.py tokenizer --gin_file=gin/tokenizers/visual_paper.gin --batch_size=4
    python tools/benchmark.py train --preset A                  see benchmark_train.py
    python tools/benchmark.py decode --preset A                 see benchmark_decode.py
    python tools/benchmark.py loss | attention                  see benchmark_kernels.py
    python tools/benchmark.py media --media my_videos           see benchmark_data.py
    python tools/benchmark.py data --dataset out/demo/dataset   the same

Weights are drawn, not trained: speed does not depend on them. FLOP and bytes are those that XLA
counts for the compiled programs, the peak is that of a large matrix product measured in the same
run, so their ratio is a fair share of this machine on this day.
"""

import argparse
import json
import sys
from typing import Any

import jax
import numpy as np

from tools import benchmark_data, benchmark_decode, benchmark_kernels, benchmark_train
from tools.measuring import measure_peak_flops, median_seconds, peak_memory_bytes

_FPS = 8.0


def main(argv: list[str] | None = None) -> int:
    """Runs a benchmark; prints a table, or JSON with --json."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] == ["decode"]:
        return benchmark_decode.main(argv[1:])
    if argv[:1] == ["train"]:
        return benchmark_train.main(argv[1:])
    if argv[:1] in (["loss"], ["attention"]):
        return benchmark_kernels.main(argv[0], argv[1:])
    if argv[:1] in (["media"], ["data"]):
        return benchmark_data.main(argv)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="what", required=True)
    tokenizer = commands.add_parser("tokenizer", help="the visual tokenizer's encoder and decoder")
    tokenizer.add_argument("--gin_file", required=True, help="of `poet train-tokenizer`")
    tokenizer.add_argument("--size_px", type=int, default=128, help="height and width of the clips")
    tokenizer.add_argument("--num_frames", type=int, default=17, help="1 + 4k frames a clip")
    tokenizer.add_argument("--batch_size", type=int, default=8, help="clips a call")
    tokenizer.add_argument("--repeats", type=int, default=5, help="calls; the median is shown")
    tokenizer.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    args = parser.parse_args(argv)
    facts = measure_tokenizer(args)
    print(json.dumps(facts) if args.json else _table(facts))
    return 0


def measure_tokenizer(args: argparse.Namespace) -> dict[str, Any]:
    """Speed, work and memory of encoding and decoding; see `main` for the arguments."""
    from poet.main import commands
    from poet.tokenizers import magvit2, visual
    from poet.train import compiling, tokenizer_run

    commands.read_gin([args.gin_file], [])
    config = commands.call_configured(tokenizer_run.TokenizerRun).recipe.model
    params = compiling.run_once(lambda key: magvit2.init_params(config, key), jax.random.key(0))
    tokenizer = visual.VisualTokenizer(config, params, "drawn", batch_size=args.batch_size)
    shape = (args.batch_size, args.num_frames, args.size_px, args.size_px, 3)
    video = np.random.default_rng(0).random(shape, dtype=np.float32)
    codes = tokenizer.encode(video)
    facts: dict[str, Any] = {
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "clips": " x ".join(str(size) for size in shape[:-1]),
        "peak_flops": measure_peak_flops(),
    }
    whole = magvit2.Magvit2(config)
    for name, run, given in (
        ("encode", tokenizer.encode, video),
        ("decode", tokenizer.decode, codes),
    ):
        seconds = median_seconds(lambda run=run, given=given: run(given), args.repeats)
        lowered = jax.jit(whole.apply, static_argnames="method").lower(
            {"params": params}, jax.ShapeDtypeStruct(given.shape, given.dtype), method=name
        )
        # Counted before XLA optimizes, so that the work is that of the model on any device.
        cost = lowered.cost_analysis() or {}
        flops = float(cost.get("flops", 0.0))
        facts[name] = {
            "clips_per_second": args.batch_size / seconds,
            "seconds_of_video_per_second": args.batch_size * args.num_frames / _FPS / seconds,
            "flops": flops,
            "achieved_flops": flops / seconds,
            "share_of_peak": flops / seconds / facts["peak_flops"],
            "bytes": float(cost.get("bytes accessed", 0.0)),
        }
    facts["peak_memory_bytes"] = peak_memory_bytes()
    return facts


def _table(facts: dict[str, Any]) -> str:
    lines = [
        f"device            {facts['device']}",
        f"parameters        {facts['parameters'] / 1e6:.1f} M",
        f"clips             {facts['clips']}",
        f"matrix product    {facts['peak_flops'] / 1e9:,.0f} GFLOP/s",
        f"peak memory       {facts['peak_memory_bytes'] / 2**30:.2f} GiB",
        "",
        "          clips/s   GFLOP a call   GFLOP/s   of the product   GB moved a call",
    ]
    for name in ("encode", "decode"):
        row = facts[name]
        lines.append(
            f"{name}  {row['clips_per_second']:9.2f}  {row['flops'] / 1e9:13,.1f}"
            f"  {row['achieved_flops'] / 1e9:8,.1f}  {100 * row['share_of_peak']:13.0f} %"
            f"  {row['bytes'] / 1e9:16.2f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

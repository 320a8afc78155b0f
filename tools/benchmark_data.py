"""Measures the data path: decoding against a bare PyAV loop, and records to device-ready batches.

    python tools/benchmark.py media --media my_videos --size_px 128
    python tools/benchmark.py data --dataset out/all/dataset

Both sides of a comparison run in turns in one call, so that a busy machine slows both.
"""

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

_FPS = 8.0


def main(argv: list[str] | None = None) -> int:
    """Runs a benchmark and prints one line a fact, or JSON with --json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="what", required=True)
    decode = commands.add_parser("media", help="files to clips, against a bare PyAV loop")
    decode.add_argument("--media", required=True, help="folder of videos, or a manifest")
    decode.add_argument("--size_px", type=int, default=128)
    decode.add_argument(
        "--num_workers", type=int, default=1, help="decoding processes of `prepare`"
    )
    decode.add_argument("--repeats", type=int, default=3)
    decode.set_defaults(run=measure_decoding)
    batches = commands.add_parser("data", help="records to batches, and their padding")
    batches.add_argument("--dataset", required=True, help="what `poet prepare` wrote")
    batches.add_argument("--mixture", default="poet_pretrain")
    batches.add_argument("--batch_tokens", type=int, default=65_536)
    batches.add_argument("--num_steps", type=int, default=100)
    batches.set_defaults(run=measure_batches)
    for command in (decode, batches):
        command.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    facts = args.run(args)
    if args.json:
        print(json.dumps(facts))
    else:
        print("\n".join(f"{name:<40} {_shown(value)}" for name, value in facts.items()))
    return 0


def measure_decoding(args: argparse.Namespace) -> dict[str, Any]:
    """Source frames a second of a bare loop and of Poet, and their ratio.

    The bare loop decodes every frame of the default video stream and resizes those on an even grid
    of 8 a second with the same kernel: no crop to shape, no timestamps, no sound, no clips.
    """
    import av

    from poet.data.clips import ClipRules
    from poet.data.decode_process import DecodeLimits, DecodePool
    from poet.media.errors import MediaError
    from poet.media.manifest import read_manifest

    rules = ClipRules(height_px=args.size_px, width_px=args.size_px)
    rows, num_frames = [], 0
    for row in read_manifest(args.media):
        row = dataclasses.replace(row, start_s=0.0, end_s=None)
        try:
            num_frames += bare_loop(row.path, args.size_px)
            list(_pictures(row, rules))
        except (MediaError, av.FFmpegError, OSError, IndexError):
            continue  # a file that one of the two cannot use compares nothing
        rows.append(row)
    if not rows:
        raise SystemExit(f"{args.media} has no file that both can decode; give videos.")
    times: dict[str, list[float]] = {"bare": [], "poet": [], "poet_in_processes": []}
    with DecodePool(DecodeLimits()) as pool:
        list(pool.items(_pictures, rows[0], rules))  # starts a process
        for _ in range(args.repeats):
            times["bare"].append(_seconds(lambda: [bare_loop(r.path, args.size_px) for r in rows]))
            times["poet"].append(_seconds(lambda: [list(_pictures(r, rules)) for r in rows]))
            times["poet_in_processes"].append(
                _seconds(lambda: [list(pool.items(_pictures, r, rules)) for r in rows])
            )
    best = {name: min(seconds) for name, seconds in times.items()}
    facts: dict[str, Any] = {"files": len(rows), "source_frames": num_frames}
    facts |= {f"{name}_frames_per_second": num_frames / s for name, s in best.items()}
    facts["poet_over_bare"] = best["bare"] / best["poet"]
    facts["poet_in_processes_over_bare"] = best["bare"] / best["poet_in_processes"]
    return facts


def bare_loop(path: Path, size_px: int) -> int:
    """Decodes and resizes with PyAV alone; returns the number of source frames."""
    import av
    from av.video.reformatter import Interpolation

    count, due, kept = 0, 0.0, []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for frame in container.decode(stream):
            count += 1
            if frame.time is not None and frame.time >= due:
                small = frame.reformat(size_px, size_px, "rgb24", interpolation=Interpolation.AREA)
                kept.append(small.to_ndarray())
                due += 1 / _FPS
    return count


def _pictures(row, rules):
    """The resized frames of a file as Poet reads them."""
    from poet.media import video

    yield from video.stream_frames(row.path, _FPS, rules.height_px, rules.width_px)


def measure_batches(args: argparse.Namespace) -> dict[str, Any]:
    """Tokens a second on one thread from records to batches on the device, and the padding."""
    import jax

    from poet.data import padding, registry
    from poet.data.batches import AgdBatches
    from poet.data.groups import AgdConfig
    from poet.data.records import open_dataset
    from poet.tokenizers.text import ByteTokenizer
    from poet.train import lm

    registry.load_task_modules(["tasks.paper", "tasks.mixtures"])
    dataset, text = open_dataset(args.dataset), ByteTokenizer()
    agd = AgdBatches(
        dataset,
        registry.resolve(args.mixture),
        lm.sizes_of(dataset, text),
        text,
        AgdConfig(batch_tokens=args.batch_tokens),
    )
    agd.batch_at(0)
    num_tokens, start = 0, time.perf_counter()
    cpu = time.process_time()
    for step in range(args.num_steps):
        _, batch = agd.batch_at(step)
        jax.block_until_ready(jax.device_put(batch))
        num_tokens += batch["decoder_input_tokens"].size
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    found = padding.measure(agd, num_steps=max(args.num_steps, 200))
    return {
        "tasks": len(agd.groups),
        "tokens_per_second": num_tokens / seconds,
        "tokens_per_second_per_core": num_tokens / cpu_seconds,
        "padding_in_groups": found.groups,
        "padding_to_blocks_of_128": found.alignment,
        "padding_to_the_longest": found.padded,
        "padding_packed_first_fit": found.packed,
    }


def _seconds(run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _shown(value: Any) -> str:
    return f"{value:,.3f}" if isinstance(value, float | np.floating) else f"{value:,}"


if __name__ == "__main__":
    sys.exit(main())

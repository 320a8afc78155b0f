"""Makes files from a trained model: clips from words, pictures or clips, and their sound.

poet generate --task text_to_video --then video_to_audio --prompt "a red circle moves left slowly"
poet generate --task image_to_video --image photo.png --out out/moving
poet generate --task future_prediction --requests out/demo/clips/manifest.tsv --split held_out
"""

import sys
from pathlib import Path

from poet.main import commands, loading

_DEMO = Path("out/demo")


def main(argv: list[str] | None = None) -> int:
    """Runs `poet generate` and returns its exit code."""
    return commands.run_command(_run, argv)


def _flags(argv: list[str]):
    parser = commands.parser(__doc__, "generate")
    add = parser.add_argument
    add("--task", required=True, help="a task that the checkpoint was trained for")
    add("--then", action="append", default=[], help="a task to go on with, such as video_to_audio")
    add("--checkpoint", default=str(_DEMO / "model"), help="MODEL_DIR of `poet train`")
    add("--tokenizers", default=str(_DEMO / "tokenizers"), help="folder with visual/ and audio/")
    add("--out", default="out/generated", help="folder for the files")
    add("--prompt", action="append", default=[], help="text; repeat it for more clips")
    add("--image", action="append", default=[], help="picture to start from; may be repeated")
    add("--video", action="append", default=[], help="clip to start from; may be repeated")
    add("--start_s", type=float, default=0.0, help="where in --video to begin")
    add("--requests", help="manifest with captions and files, instead of the flags above")
    add("--split", help="rows of --requests to take; all by default")
    add("--limit", type=int, help="at most so many rows of --requests, in file order")
    add("--num_samples", type=int, default=1, help="samples a prompt, picture or clip")
    add("--temperature", type=float, default=1.0, help="0 takes the likeliest token")
    add("--then_temperature", type=float, help="of the tasks of --then; --temperature by default")
    add("--top_k", type=int, default=0, help="keep the k likeliest tokens; 0 keeps all")
    add("--top_p", type=float, default=1.0, help="keep the likeliest tokens of this mass")
    add("--guidance", type=float, default=1.0, help="weight of the text; 1 is plain sampling")
    add("--batch_size", type=int, default=32, help="requests decoded together")
    add("--seed", type=int, default=0, help="of every draw")
    return parser.parse_args(argv)


def _run(argv: list[str]) -> int:
    flags = _flags(argv)

    from poet.sample import jobs
    from poet.sample.requests import SamplingRequest
    from poet.train.progress import Progress

    sampling = SamplingRequest(
        temperature=flags.temperature,
        top_k=flags.top_k,
        top_p=flags.top_p,
        guidance=flags.guidance,
        seed=flags.seed,
    )
    asks = _asks(flags)
    if flags.batch_size < 1:
        raise commands.UserError(f"--batch_size expects 1 or more, got {flags.batch_size}.")
    commands.check_writable(flags.out)
    poet = loading.load_engine(flags.checkpoint, flags.tokenizers)
    job = jobs.Job(
        task=flags.task,
        then=tuple(flags.then),
        sampling=sampling,
        then_temperature=flags.then_temperature,
        out=Path(flags.out),
        batch_size=flags.batch_size,
    )
    with Progress(f"generate {flags.task}", len(asks), unit="requests") as progress:
        rows = jobs.run(poet, job, asks, progress.update)
    print(f"{len(rows)} files in {job.out}, the first {job.out / rows[0]['file']}")
    return 0


def _asks(flags) -> list:
    """Requests from the flags or the manifest; every sample has a seed of its own."""
    from poet.sample.jobs import Ask

    if flags.num_samples < 1:
        raise commands.UserError(f"--num_samples expects 1 or more, got {flags.num_samples}.")
    rows = _manifest_rows(flags) if flags.requests else _flag_rows(flags)
    return [
        Ask(
            name=name if flags.num_samples == 1 else f"{name}_{sample}",
            prompt=prompt,
            media=media,
            start_s=start_s,
            number=(sample << 32) + number,
        )
        for number, (name, prompt, media, start_s) in enumerate(rows)
        for sample in range(flags.num_samples)
    ]


def _flag_rows(flags) -> list[tuple[str, str, str, float]]:
    media = flags.image + flags.video
    if len(flags.prompt) > 1 and len(media) > 1 and len(flags.prompt) != len(media):
        raise commands.UserError(
            f"Expected as many --prompt as --image and --video, got {len(flags.prompt)} and"
            f" {len(media)}; give one for all, or one for each."
        )
    count = max(len(flags.prompt), len(media), 1)
    prompts = flags.prompt * count if len(flags.prompt) == 1 else flags.prompt or [""] * count
    files = media * count if len(media) == 1 else media or [""] * count
    return [
        (f"{number:04d}", prompt, file, flags.start_s)
        for number, (prompt, file) in enumerate(zip(prompts, files, strict=True))
    ]


def _manifest_rows(flags) -> list[tuple[str, str, str, float]]:
    from poet.media import manifest

    if flags.limit is not None and flags.limit < 1:
        raise commands.UserError(f"--limit expects 1 or more, got {flags.limit}.")
    rows = manifest.read_manifest(flags.requests)
    kept = [row for row in rows if flags.split in (None, row.split)][: flags.limit]
    if not kept:
        splits = sorted({row.split for row in rows if row.split})
        raise commands.UserError(
            f"Expected rows of split {flags.split!r} in {flags.requests}, found none; its splits"
            f" are {', '.join(splits) or 'not named'}."
        )
    return [
        (row.clip_id.replace("/", "_"), row.caption, str(row.path), row.start_s) for row in kept
    ]


if __name__ == "__main__":
    sys.exit(main())

"""Makes files from a trained model: words, a picture, a sound or a clip go in, a file comes out.

poet generate --task text_to_video --prompt "a red circle moves left slowly" --out out/red.mp4
poet generate --task text_to_video --then video_to_audio --prompt "a red circle moves left slowly"
poet generate --task image_to_video --image photo.png --then stylize --prompt "a blue circle"
poet generate --task inpaint --video clip.mp4 --mask mask.png
poet generate --task continue --video clip.mp4 --seconds 10
poet generate --task future_prediction --requests out/demo/clips/manifest.tsv --split held_out
poet generate --requests poet_inpainting --dataset out/all/dataset --split validation --limit 48

A --prompt after a --then belongs to that task. With --seconds, "0: ..." and "4: ..." change the
words as time goes on.
"""

import argparse
import sys
from pathlib import Path

from poet.main import commands, generate_requests

_DEMO = Path("out/demo")


def main(argv: list[str] | None = None) -> int:
    """Runs `poet generate` and returns its exit code."""
    return commands.run_command(_run, argv)


class _Chain(argparse.Action):
    """--then, --prompt and --mask in the order they were typed: later ones belong to the --then."""

    def __call__(self, parser, namespace, value, option=None):
        chain = namespace.chain
        if option == "--then":
            namespace.chain = [*chain, {"task": value}]
        elif chain:
            if self.dest in chain[-1]:
                parser.error(f"{option} may be given once after each --then")
            namespace.chain = [*chain[:-1], chain[-1] | {self.dest: value}]
        elif self.dest == "mask":
            namespace.mask = value
        else:
            namespace.prompt = [*namespace.prompt, value]


def _flags(argv: list[str]):
    parser = commands.parser(__doc__, "generate")
    parser.set_defaults(chain=[])
    add = parser.add_argument
    add("--task", default="", help="such as text_to_video; a wrong one names those there are")
    add("--then", action=_Chain, help="a task to go on with, such as video_to_audio")
    add("--checkpoint", default=str(_DEMO / "model"), help="MODEL_DIR of `poet train`")
    add("--ema", action="store_true", help="take the averaged weights of a run that kept them")
    add("--step", default="", help="which checkpoint: a number, or best; the newest if not given")
    add("--base", default="", help="where the base of a checkpoint of adapters lies now")
    add("--tokenizers", default=str(_DEMO / "tokenizers"), help="folder with visual/ and audio/")
    add("--out", default="out/generated", help="a file (.mp4 .webm .gif .png .wav) or a folder")
    add("--overwrite", action="store_true", help="replace files that were made from something else")
    add("--prompt", action=_Chain, default=[], help="words; repeat it for more clips")
    add("--negative_prompt", default="", help="words to lead away from; needs --guidance")
    add("--image", action="append", default=[], help="picture to start from; may be repeated")
    add("--video", action="append", default=[], help="clip to start from; may be repeated")
    add("--audio", action="append", default=[], help="sound to start from; may be repeated")
    add("--mask", action=_Chain, default="", help="picture, white is hidden; or a region's name")
    add("--start_s", type=float, help="where in --video and --audio to begin")
    add("--depth_model", default="", help="folder of a depth model of transformers, for stylize")
    add("--seconds", type=float, default=0.0, help="make clips so long, second by second")
    add("--size", default="", help="square, portrait or landscape, if the checkpoint has several")
    add("--format", default="mp4", choices=("mp4", "webm", "gif"), help="of clips in a folder")
    add("--requests", help="manifest or .jsonl of requests, or a SeqIO task, instead of the above")
    add("--dataset", help="of `poet prepare`, whose records answer a SeqIO task's --requests")
    add("--task_modules", nargs="*", default=["tasks.paper"], help="that register SeqIO tasks")
    add("--split", help="rows of --requests to take; all by default")
    add("--limit", type=int, help="at most so many rows of --requests, in file order")
    add("--shard", default="0/1", help="I/N answers every N-th row of --requests, from I on")
    add("--num_samples", type=int, default=1, help="samples a prompt, picture or clip")
    add("--temperature", type=float, default=1.0, help="0 takes the likeliest token")
    add("--then_temperature", type=float, help="of the tasks of --then; --temperature by default")
    add("--top_k", type=int, default=0, help="keep the k likeliest tokens; 0 keeps all")
    add("--top_p", type=float, default=1.0, help="keep the likeliest tokens of this mass")
    add("--guidance", type=float, default=1.0, help="weight of the text; 1 is plain sampling")
    add("--candidates", type=int, default=1, help="tries at every step; the best one is kept")
    add("--choose", default="likelihood", choices=("likelihood", "hand"), help="among candidates")
    add("--preview", action="store_true", help="write pictures to OUT/preview as frames get done")
    add("--seed", type=int, default=0, help="of every draw")
    add("--batch_size", type=int, default=32, help="requests decoded together")
    add("--schedule", choices=("raster", "diagonal"), help="order of tokens; as trained by default")
    add("--slope", type=float, default=0.0, help="share of a row before the next one, if diagonal")
    add("--weights", default="model", choices=("model", "bfloat16", "int8"), help="while decoding")
    add("--cache", default="model", choices=("model", "bfloat16", "int8"), help="keys and values")
    add("--tensor", type=int, default=1, help="devices to spread a model over that needs them")
    return parser.parse_args(argv)


def _run(argv: list[str]) -> int:
    flags = _flags(argv)

    from poet.data import structure
    from poet.sample import asks, decode, jobs, loading
    from poet.sample.requests import SamplingRequest
    from poet.tokens import schedule
    from poet.train.progress import Progress

    sampling = SamplingRequest(
        temperature=flags.temperature,
        top_k=flags.top_k,
        top_p=flags.top_p,
        guidance=flags.guidance,
        seed=flags.seed,
    )
    wanted = generate_requests.asks_of(flags, sampling)
    if flags.batch_size < 1:
        raise commands.UserError(f"--batch_size expects 1 or more, got {flags.batch_size}.")
    folder, file_name = _target(flags, len(wanted))
    commands.check_writable(folder)
    order = loading.trained_schedule(flags.checkpoint)
    if flags.schedule:
        order = schedule.Schedule(flags.schedule, flags.slope)
    decoding = decode.Decoding(cache_dtype=flags.cache, weight_dtype=flags.weights, schedule=order)
    job = jobs.Job(
        task=flags.task,
        then=tuple(asks.Link(**link) for link in flags.chain),
        sampling=sampling,
        then_temperature=flags.then_temperature,
        out=folder,
        file_name=file_name,
        format=flags.format,
        seconds=flags.seconds,
        tries=flags.candidates,
        has_preview=flags.preview,
        overwrite=flags.overwrite,
        records_failures=bool(flags.requests),
        batch_size=flags.batch_size,
    )
    commands.keep_compiled_programs()
    engine = loading.load_engine(
        flags.checkpoint,
        flags.tokenizers,
        decoding,
        flags.tensor,
        flags.size,
        averaged=flags.ema,
        base_dir=flags.base,
        step=flags.step,
    )
    if flags.dataset:
        generate_requests.check_dataset(flags, engine)
    estimator = structure.EstimatedStructure(flags.depth_model)
    if flags.requests and all("start_x" in ask.facts for ask in wanted):
        estimator = structure.ExactStructure()
    pick = None
    if flags.choose == "hand":
        pick = generate_requests.picker(engine, folder, len(wanted))
    with Progress(f"generate {flags.task}", len(wanted), unit="requests") as progress:
        rows = jobs.run(engine, job, wanted, progress.update, estimator, pick)
    return _report(rows, job, is_batch=bool(flags.requests))


def _report(rows: list[dict], job, is_batch: bool) -> int:
    """Says what was made of what; exit code 1 if some rows of a batch failed."""
    made = [row for row in rows if "error" not in row]
    failed = [row for row in rows if "error" in row]
    if not is_batch:
        if made and made[0].get("first_frame_s"):
            first, last = made[0]["first_frame_s"], made[0]["last_frame_s"]
            print(f"first frame after {first:.1f} s, the last after {last:.1f} s")
        for note in dict.fromkeys(note for row in made for note in row["notes"]):
            print(note)
    for row in failed[:3]:
        print(f"error: request {row['name']}: {row['error']}", file=sys.stderr)
    if failed:
        print(f"{len(failed)} of {len(rows)} requests failed; their rows say why.", file=sys.stderr)
    if made:
        print(f"{len(made)} files in {job.out}, the first {job.out / made[0]['file']}")
    return 1 if failed else 0


def _target(flags, num_asks: int) -> tuple[Path, str]:
    """(folder, file name or "") of --out."""
    from poet.sample import outputs

    folder, file_name = outputs.target(flags.out)
    if file_name and num_asks > 1:
        raise commands.UserError(
            f"--out {flags.out} names one file, but {num_asks} were asked for; name a folder."
        )
    return folder, file_name


if __name__ == "__main__":
    sys.exit(main())

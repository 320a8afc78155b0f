"""Cuts media files into clips, tokenizes them and writes a dataset of token records.

poet prepare --media out/demo/clips --out out/demo/dataset --size_px 32
poet prepare --media my_videos --manifest my_captions.tsv --out out/mine/dataset
poet prepare --media out/demo/clips --out out/all/dataset --size_px 32 --regions all \\
    --structure exact
poet prepare --media "s3://bucket/{000..120}.tar" --tokenizers s3://bucket/tokenizers \
    --out s3://bucket/dataset --runner FlinkRunner --beam_options "--flink_master=host:8081"

Files that cannot be used are listed with the reason, also in OUT/rejected.jsonl; the run goes on.
Exit code 0 if anything was usable, 1 if nothing was.
"""

import contextlib
import shlex
import sys
from pathlib import Path

from poet.main import commands

_DEMO = Path("out/demo")
# Height and width: the paper writes portrait as 128 x 224, width first.
_PAPER_SIZES = {"square": (128, 128), "portrait": (224, 128)}
_STRUCTURE = "flow and depth for stylization; exact is for clips of `poet render`"


def main(argv: list[str] | None = None) -> int:
    """Runs `poet prepare` and returns its exit code."""
    return commands.run_command(_run, argv)


def _flags(argv: list[str]):
    parser = commands.parser(__doc__, "prepare")
    add = parser.add_argument
    add("--media", required=True, help="folder, manifest (.tsv .csv .jsonl), .tar, tfds:NAME")
    add("--manifest", help="manifest whose file names start at --media")
    add("--caption_feature", default="", help="of a TFDS dataset; caption or text by default")
    add("--out", required=True, help="folder of the dataset")
    add("--tokenizers", default=str(_DEMO / "tokenizers"), help="folder with visual/ and audio/")
    add("--size", default="square", choices=("square", "portrait"), help="the paper's: 128 px wide")
    add("--size_px", type=int, help="height and width, a multiple of 8, instead of --size")
    add("--height_px", type=int, help="height, where it differs from the width")
    add("--width_px", type=int, help="width, where it differs from the height")
    add("--num_frames", type=int, default=17, help="frames a clip, 1 + 4k")
    add("--stride_frames", type=int, help="frames between clip starts; a clip's length by default")
    add("--regions", nargs="*", default=[], help="hidden regions for painting: names, or all")
    add("--structure", default="none", choices=("none", "estimate", "exact"), help=_STRUCTURE)
    add("--depth_model", default="", help="folder of a transformers depth model, for estimate")
    add("--seed", type=int, default=0, help="of the choice of regions")
    add("--scene_change", type=float, help="jump of level that begins a new scene, such as 30")
    add("--filters", nargs="*", default=[], help="leave out: black frozen silent short duplicate")
    add("--min_side_px", type=int, default=0, help="leave out smaller files")
    add("--max_aspect", type=float, default=0.0, help="leave out longer or taller files; 3 is 3:1")
    add("--clip_limit_s", type=float, default=60.0, help="a file silent so long is given up")
    add("--memory_limit_mb", type=int, default=4096, help="of a decoding process; 0 for any")
    add("--num_workers", type=int, help="decoding processes; as many as cores, up to 4")
    add("--video_stream", type=int, help="number of the video stream; the default one otherwise")
    add("--file_format", default="array_record", choices=("array_record", "tfrecord"))
    add("--runner", default="local", help="local, multi_processing, or a runner of Apache Beam")
    add("--beam_options", default="", help='of the runner: "--flink_master=host:8081 ..."')
    add("--batch_size", type=int, default=16, help="clips tokenized together")
    add("--clips_per_unit", type=int, default=64, help="what a killed run may have to do again")
    add("--strict", action="store_true", help="stop at the first unusable file")
    return parser.parse_args(argv)


def _run(argv: list[str]) -> int:
    flags = _flags(argv)
    commands.check_writable(flags.out, may_be_remote=True)

    from poet.data import prepare
    from poet.data.clips import ClipRules
    from poet.data.decode_process import DecodeLimits
    from poet.data.filters import ClipFilters
    from poet.sample import loading
    from poet.train.progress import Progress

    visual, audio = loading.load_tokenizers(flags.tokenizers)
    height_px, width_px = _sizes(flags)
    workers = {} if flags.num_workers is None else {"num_workers": flags.num_workers}
    config = prepare.PrepareConfig(
        **workers,
        media=flags.media,
        manifest=flags.manifest,
        caption_feature=flags.caption_feature,
        out_dir=flags.out,
        rules=ClipRules(
            height_px=height_px,
            width_px=width_px,
            num_frames=flags.num_frames,
            stride_frames=flags.stride_frames,
            sample_rate_hz=audio.sample_rate_hz,
            video_stream=flags.video_stream,
            scene_change=flags.scene_change,
            filters=ClipFilters(
                names=tuple(flags.filters),
                min_side_px=flags.min_side_px,
                max_aspect=flags.max_aspect,
            ),
        ),
        limits=DecodeLimits(clip_s=flags.clip_limit_s, memory_mb=flags.memory_limit_mb),
        file_format=flags.file_format,
        batch_size=flags.batch_size,
        clips_per_unit=flags.clips_per_unit,
        strict=flags.strict,
        runner=flags.runner,
        beam_options=tuple(shlex.split(flags.beam_options)),
        tokenizers_dir=flags.tokenizers,
        conditions=_conditions(flags),
    )
    bars = contextlib.ExitStack()
    shown: list[Progress] = []

    def on_pieces(done: int, total: int) -> None:
        if not shown:  # the number of pieces is known once the files have been probed
            shown.append(bars.enter_context(Progress("prepare", total, unit="pieces")))
        shown[0].update(done)

    try:
        with bars:
            report = prepare.prepare(config, visual, audio, on_pieces)
    except prepare.NothingUsableError as error:
        print("\n".join(error.report.lines()))
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(report.lines()))
    print(f"{report.num_records} records in {report.out_dir}")
    return 0


def _conditions(flags):
    from poet.data import masking, structure
    from poet.data.conditions import Conditions

    if flags.depth_model and flags.structure != "estimate":
        raise commands.UserError("--depth_model goes with --structure estimate; add that.")
    estimator = None
    if flags.structure == "exact":
        estimator = structure.ExactStructure()
    elif flags.structure == "estimate":
        estimator = structure.EstimatedStructure(flags.depth_model)
    regions = masking.REGIONS if flags.regions == ["all"] else tuple(flags.regions)
    return Conditions(regions=regions, seed=flags.seed, estimator=estimator)


def _sizes(flags) -> tuple[int, int]:
    if flags.size_px and (flags.height_px or flags.width_px):
        raise commands.UserError("Give --size_px, or --height_px and --width_px, not both.")
    if bool(flags.height_px) != bool(flags.width_px):
        raise commands.UserError("--height_px and --width_px go together; give both.")
    if flags.height_px:
        return flags.height_px, flags.width_px
    if flags.size_px:
        return flags.size_px, flags.size_px
    return _PAPER_SIZES[flags.size]


if __name__ == "__main__":
    sys.exit(main())

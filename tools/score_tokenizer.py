"""Scores a tokenizer on held-out media: what its codes lose.

    python tools/score_tokenizer.py --tokenizer out/tokenizers/visual --media out/shapes \
        --size_px 64 --picture out/reconstructions.png
    python tools/score_tokenizer.py --tokenizer out/tokenizers/audio --media out/shapes

Pictures: PSNR and SSIM of first and later frames, the share of the codes that occurs, the Frechet
distance of first frames in toy features; with --num_hidden, the share of codes that stay where a
part of the clip is hidden elsewhere. Sound: signal to noise, codes a level, and for the shapes
world the share of clips whose pitch is heard again.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from poet.data import masking
from poet.evals import frechet, pictures
from poet.main import commands
from poet.shapes_world import files, hearing
from poet.tokenizers import protocol
from poet.train import tokenizer_media, tokenizer_preview
from poet.train.progress import Progress

_BATCH = 16


def main(argv: list[str] | None = None) -> int:
    """Prints the scores as one JSON object."""
    return commands.run_command(_run, argv)


def _run(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", required=True, help="a folder of `poet train-tokenizer`")
    parser.add_argument("--media", required=True, help="a folder of media files or a manifest")
    parser.add_argument("--split", default="held_out", help="of the manifest")
    parser.add_argument("--num_files", type=int, default=0, help="the first so many; 0 takes all")
    parser.add_argument("--size_px", type=int, default=64, help="height and width of the clips")
    parser.add_argument("--num_frames", type=int, default=17, help="1 + 4k frames a clip")
    parser.add_argument(
        "--num_hidden", type=int, default=0, help="clips to hide regions of, for painting tasks"
    )
    parser.add_argument("--picture", help="PNG of clips over their reconstructions")
    args = parser.parse_args(argv)
    tokenizer = protocol.load(args.tokenizer)
    rows = tokenizer_media.rows_of_split(args.media, args.split)[: args.num_files or None]
    score = score_visual if hasattr(tokenizer, "num_codes") else score_audio
    facts = {"tokenizer": tokenizer.fingerprint, "split": args.split, "files": len(rows)}
    print(json.dumps(facts | score(tokenizer, rows, args), indent=2))
    return 0


def score_visual(tokenizer, rows, args) -> dict:
    """Scores of clips through a visual tokenizer and back."""
    clips = tokenizer_media.read_frames(
        rows,
        height_px=args.size_px,
        width_px=args.size_px,
        num_frames=args.num_frames,
        frames_per_second=8.0,
    )
    num_hidden = args.num_hidden if args.num_frames > 1 else 0
    used, restored = np.zeros(tokenizer.num_codes, bool), []
    originals = clips.astype(np.float32) / 255.0
    with Progress("score", len(clips), unit="clips") as progress:
        for start in range(0, len(clips), _BATCH):
            codes = tokenizer.encode(originals[start : start + _BATCH])
            used[np.unique(codes)] = True
            restored.append(np.clip(np.asarray(tokenizer.decode(codes)), 0.0, 1.0))
            progress.update(start + len(codes))
    restored = np.concatenate(restored)
    if args.picture:
        _save(Path(args.picture), tokenizer_preview.strips(originals[:6], restored[:6]))
    features = [frechet.toy_features(side[:, 0]) for side in (originals, restored)]
    return {
        "clips": len(clips),
        **pictures.compare(originals, restored),
        "codes_used": int(used.sum()),
        "codes_used_share": float(used.mean()),
        "frechet_first_frames_toy64": frechet.frechet_distance(*features),
    } | ({"codes_kept": kept_beside_hidden(tokenizer, clips[:num_hidden])} if num_hidden else {})


def kept_beside_hidden(tokenizer, clips) -> dict[str, float]:
    """For every region, the share of codes that hiding it leaves alone where all is seen.

    Painting tasks are given a clip with a region hidden, in codes: where this is small they cannot
    copy what is seen and have to translate it.

    Args:
      clips: uint8 [clips, frames, rows, columns, 3].
    """
    codes = _encode(tokenizer, clips)
    shares = {}
    for region in masking.REGIONS:
        hidden = [masking.hide(clip, region, tokenizer.frames_per_token) for clip in clips]
        is_whole = _seen_whole(tokenizer, region, clips.shape[1:4])
        if is_whole.any():
            same = _encode(tokenizer, np.stack(hidden)) == codes
            shares[region] = float(same[:, is_whole].mean())
    return shares


def _seen_whole(tokenizer, region: str, shape):
    """Bool [t, h, w]: places of codes all of whose pixels are seen."""
    frames, side = tokenizer.frames_per_token, tokenizer.px_per_token
    seen = masking.visible(region, shape, frames)
    tiles = seen.reshape(len(seen), seen.shape[1] // side, side, seen.shape[2] // side, side)
    tiles = tiles.all(axis=(2, 4))
    later = tiles[1:].reshape(-1, frames, *tiles.shape[1:]).all(axis=1)
    return np.concatenate([tiles[:1], later])


def _encode(tokenizer, clips):
    parts = [clips[start : start + _BATCH] for start in range(0, len(clips), _BATCH)]
    return np.concatenate([tokenizer.encode(part / np.float32(255)) for part in parts])


def score_audio(tokenizer, rows, args) -> dict:
    """Scores of sounds through an audio tokenizer and back."""
    specs = _shapes_specs(args.media)
    noise, signal, levels, heard = 0.0, 0.0, [], []
    length = 2 * tokenizer.sample_rate_hz
    length -= length % tokenizer.samples_per_frame
    with Progress("score", len(rows), unit="files") as progress:
        for done, row in enumerate(rows, start=1):
            waves = tokenizer_media.read_sounds(
                [row], num_samples=length, sample_rate_hz=tokenizer.sample_rate_hz
            )
            codes = tokenizer.encode(waves)
            restored = tokenizer.decode(codes, length)
            noise += float(((restored - waves) ** 2).sum())
            signal += float((waves**2).sum())
            levels.append(codes.transpose(1, 0, 2).reshape(codes.shape[1], -1))
            spec = specs.get(row.path.name)
            if spec is not None:
                pitch = hearing.hear_pitch(restored[0], hearing.hear_clicks(restored[0]))
                heard.append(hearing.name_pitch(pitch) == spec.colour)
            progress.update(done)
    scores = {
        "snr_db": float(10 * np.log10(signal / max(noise, 1e-12))),
        "codes_used": [len(np.unique(level)) for level in np.concatenate(levels, axis=1)],
    }
    return scores | ({"pitch_recovered": float(np.mean(heard))} if heard else {})


def _shapes_specs(media: str) -> dict:
    """{file name: spec} of a folder of the shapes world, {} of other media."""
    path = Path(media)
    path = path / files.MANIFEST_NAME if path.is_dir() else path
    try:
        specs = files.read_specs(path)
    except (OSError, ValueError):
        return {}
    return {Path(name).name: spec for name, spec in specs.items()}


def _save(path: Path, pixels: np.ndarray) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    size = (pixels.shape[1] * 2, pixels.shape[0] * 2)
    Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST).save(path)


if __name__ == "__main__":
    sys.exit(main())

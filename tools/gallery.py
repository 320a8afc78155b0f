"""Draws one picture of what `tools/score_tasks.py` made: a card a task, what was given above.

    python -m tools.gallery --scores out/all/scores --clips out/all/clips --out docs/gallery.png

Each card shows the same clip of the split, by default the first one: none is picked.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

_CARDS = {
    "text_to_image": "{prompt}",
    "text_to_video": "{prompt}",
    "image_to_video": "set in motion: {prompt}",
    "continue_5s": "the first second, and the four that follow",
    "inpaint": "the hidden middle filled in",
    "outpaint": "what lies around the middle",
    "stylize": "flow and depth, and: {prompt}",
    "audio_to_video": "a picture of this sound",
    "video_to_audio": "the sound of this picture",
    "continue_with_sound": "the first second with sound, and the next",
    "text_to_video_with_sound": "with sound: {prompt}",
    "unconditional": "nothing given",
}


def main(argv: list[str] | None = None) -> int:
    """Runs the program."""
    from poet.demo import picture

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("scores", "clips", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--number", type=int, default=0, help="of the clip, in file order")
    parser.add_argument("--split", default="validation")
    args = parser.parse_args(argv)
    cards = [_card(Path(args.scores) / task, args, words) for task, words in _CARDS.items()]
    print(f"wrote {picture.write_page(cards, Path(args.out), num_colours=192)}")
    return 0


def _card(folder: Path, args: argparse.Namespace, words: str) -> np.ndarray:
    from poet.demo import picture, report
    from poet.media import images, sound, video

    row = report.read_rows(folder / "samples.jsonl")[args.number]
    path, frames, heard = folder / row["file"], None, None
    if path.suffix == ".png":
        frames = images.read_image(path)[None]
    elif folder.name != "video_to_audio":
        frames = video.read_video(path, 8.0)
    if path.suffix != ".png" and folder.name != "audio_to_video" and row["has_sound"]:
        heard = sound.read_sound(path)
    title = f"{folder.name}: {words.format(prompt=row['prompt'])}"
    return picture.card(title, frames, heard, _given(folder.name, args))


def _given(task: str, args: argparse.Namespace) -> list[np.ndarray]:
    """Frames and sounds that the task was given of the clip."""
    from poet.data import masking, structure
    from poet.media import sound, video
    from poet.shapes_world.files import read_specs

    specs = read_specs(Path(args.clips) / "manifest.tsv").items()
    mine = [(file, spec) for file, spec in specs if spec.split == args.split]
    file, spec = mine[args.number]
    path = Path(args.clips) / file
    frames = video.read_video(path, 8.0)
    if task == "stylize":
        return [structure.pack(*structure.ExactStructure()(frames, vars(spec), 0.0))]
    if task in ("inpaint", "outpaint"):
        return [masking.hide(frames, f"{task}_central")]
    if task == "audio_to_video":
        return [sound.read_sound(path)]
    return {"image_to_video": [frames[:1]], "video_to_audio": [frames]}.get(task, [])


if __name__ == "__main__":
    sys.exit(main())

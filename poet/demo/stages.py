"""What the demo runs, in order: every stage is one `poet` command with its own arguments."""

import dataclasses
import shlex
from pathlib import Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoSize:
    """How much the demo makes. Model sizes and steps live in the gin files that it names.

    Attributes:
      name: "quick", "full" or "tiny".
      num_train: Clips to train on. The held-out clips come on top.
      num_validation: Clips of training combinations that no stage trains on.
      num_held_out: Clips of combinations that never occur in training.
      num_prompts: Held-out captions for text-to-video, then video-to-audio.
      num_images: Held-out first frames for image-to-video.
      num_continuations: Held-out clips whose second second is generated.
      rendered_px: Height and width of the rendered files.
      size_px: Height and width that the tokenizer and the language model see.
    """

    name: str
    num_train: int
    num_validation: int
    num_held_out: int
    num_prompts: int
    num_images: int
    num_continuations: int
    rendered_px: int = 64
    size_px: int = 32
    visual_gin: str
    audio_gin: str
    train_gin: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """One command of the loop.

    Attributes:
      name: Short, unique; names the state and log files.
      title: What the stage does, for people.
      argv: Arguments of `poet`, the command's name first.
    """

    name: str
    title: str
    argv: tuple[str, ...]

    @property
    def command(self) -> str:
        """The line a person would type."""
        return shlex.join(("poet", *self.argv))


def stages(size: DemoSize, out: Path, seed: int = 0) -> tuple[Stage, ...]:
    """The stages of a demo of `size` that writes under `out`, in running order."""
    return (*_making_stages(size, out, seed), *_asking_stages(size, out, seed))


def _making_stages(size: DemoSize, out: Path, seed: int) -> tuple[Stage, ...]:
    """From nothing to a trained language model."""
    clips, tokenizers, dataset = out / "clips", out / "tokenizers", out / "dataset"

    def train_tokenizer(kind: str, title: str, gin_file: str) -> Stage:
        argv = ("train-tokenizer", f"--gin_file={gin_file}", f"--media={clips}")
        return Stage(
            name=f"{kind}_tokenizer", title=title, argv=(*argv, f"--out={tokenizers / kind}")
        )

    render = (
        "render",
        f"--out={clips}",
        f"--num_train={size.num_train}",
        f"--num_validation={size.num_validation}",
        f"--num_held_out={size.num_held_out}",
        f"--size_px={size.rendered_px}",
        f"--seed={seed}",
    )
    prepare = (
        "prepare",
        f"--media={clips}",
        f"--tokenizers={tokenizers}",
        f"--size_px={size.size_px}",
        f"--out={dataset}",
    )
    train = (
        "train",
        f"--gin_file={size.train_gin}",
        f"--gin.MODEL_DIR={out / 'model'}",
        f"--gin.DATA_DIR={dataset}",
        f"--gin.TOKENIZERS={tokenizers}",  # for pictures while it trains
    )
    return (
        Stage(name="render", title="Render captioned clips with sound", argv=render),
        train_tokenizer("visual", "Train the visual tokenizer (MAGVIT-v2)", size.visual_gin),
        train_tokenizer("audio", "Train the audio tokenizer (SoundStream)", size.audio_gin),
        Stage(name="prepare", title="Read the files back and tokenize them", argv=prepare),
        Stage(name="train", title="Train the prefix language model", argv=train),
    )


def _asking_stages(size: DemoSize, out: Path, seed: int) -> tuple[Stage, ...]:
    """From the trained model to files, and the measurement of the files."""
    clips, samples = out / "clips", out / "samples"
    asks = {
        "text_to_video": (
            size.num_prompts,
            (
                "--then=video_to_audio",
                "--then_temperature=0.7",
                "--temperature=0.2",
                "--guidance=1.3",
            ),
        ),
        "image_to_video": (size.num_images, ("--temperature=0.2",)),
        "future_prediction": (size.num_continuations, ("--temperature=0.2",)),
    }
    titles = {
        "text_to_video": "Generate clips from held-out captions, then their sound",
        "image_to_video": "Set held-out pictures in motion",
        "future_prediction": "Continue held-out clips by one second",
    }
    generate = tuple(
        Stage(
            name=task,
            title=titles[task],
            argv=(
                "generate",
                "--overwrite",
                f"--task={task}",
                f"--checkpoint={out / 'model'}",
                f"--tokenizers={out / 'tokenizers'}",
                f"--requests={clips / 'manifest.tsv'}",
                "--split=held_out",
                f"--limit={count}",
                f"--seed={seed}",
                f"--out={samples / task}",
                *more,
            ),
        )
        for task, (count, more) in asks.items()
    )
    evaluate = (
        "evaluate",
        f"--clips={clips}",
        f"--tokenizers={out / 'tokenizers'}",
        f"--samples={samples}",
        f"--size_px={size.size_px}",
        f"--out={out / 'evaluation'}",
    )
    return (
        *generate,
        Stage(name="evaluate", title="Measure every file with the exact checker", argv=evaluate),
    )

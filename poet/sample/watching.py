"""Fixed held-out prompts, decoded while a model trains: what it makes, not only what it loses.

    MODEL_DIR/samples/1000/TASK.json     captions, ids asked for and made, share of equal tokens
    MODEL_DIR/samples/1000/TASK.png      frames of each clip over those the model made (tokenizers)
    MODEL_DIR/samples/1000/TASK_0.mp4    what it made of the first example (tokenizers)

Prompts and draws are the same at every look, so that two looks differ by the model alone. Axes: B
examples, T frames, Y rows, X columns.
"""

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath

from poet.data.groups import SizedTask
from poet.sample.decode import Decoding
from poet.sample.engine import Engine, Tokenizers, Trained
from poet.sample.loading import load_tokenizers
from poet.sample.requests import SamplingRequest
from poet.tokens.sequence import SequencePlan
from poet.train import partitioning, tokenizer_preview
from poet.train.lm_watch import KnownRun, Look

FOLDER = "samples"
# Tasks that are looked at where none are named: each has programs of its own to compile.
_NUM_TASKS = 4
# Frames are shown at least so large, by whole pixels.
_SHOWN_PX = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class FixedPrompts:
    """What is decoded at each look (`LMRun.sampler`).

    Attributes:
      tokenizers: Folder with visual/ and audio/, for pictures and sound; "" writes ids only.
      tasks: Names of tasks of the run, with their size where they have several; none stands for the
        most frequent task of each of the four most frequent groups.
      num_examples: Of each task; the first of its held-out ones.
      split: Of the dataset; "" is the first that is evaluated; where none is, the one trained on.
      sampling: How tokens are drawn; guidance counts for tasks with words.
    """

    tokenizers: str = ""
    tasks: tuple[str, ...] = ()
    num_examples: int = 4
    split: str = ""
    sampling: SamplingRequest = SamplingRequest()

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", tuple(self.tasks))
        if self.num_examples < 1:
            raise ValueError(f"num_examples={self.num_examples} must be 1 or more.")

    def start(self, run: KnownRun) -> Look:
        """Reads the prompts.

        Raises:
          ValueError: The tokenizers are not those of the run's data, a task is not trained, or
            the split has no example of any.
        """
        split = self.split or (*run.splits, run.train_split)[0]
        visual, audio = self._load(run)
        groups = list(run.batches.groups.values())[:_NUM_TASKS]
        names = self.tasks or [group.task_names[0] for group in groups]
        read = [run.batches.examples(name, split, self.num_examples) for name in names]
        prompts = [_Prompt(*found) for found in read if found[1]]
        if not prompts:
            raise ValueError(
                f"Split {split!r} has no example of {', '.join(names)}; name another split or other"
                " tasks (FixedPrompts), or set SAMPLE_PERIOD = 0."
            )
        tokenizers = Tokenizers(visual=visual, audio=audio, text=run.text_tokenizer)
        return _Samples(self, run, prompts, tokenizers)

    def _load(self, run: KnownRun) -> tuple[Any, Any]:
        """(visual, audio) tokenizers, if they are wanted and those of the data."""
        if not self.tokenizers:
            return None, None
        found = load_tokenizers(self.tokenizers)
        for kind, tokenizer in zip(("visual", "audio"), found, strict=True):
            wanted = run.tokenizers.get(kind)
            if wanted is not None and wanted != tokenizer.fingerprint:
                raise ValueError(
                    f"The dataset's ids are of the {kind} tokenizer {wanted[:12]}, but"
                    f" {self.tokenizers} holds {tokenizer.fingerprint[:12]}; give the folder that"
                    " the dataset was prepared with (TOKENIZERS)."
                )
        return found


@dataclasses.dataclass(frozen=True)
class _Prompt:
    """Examples of a task: local codes with a row each, and their captions."""

    task: SizedTask
    fields: Mapping[str, np.ndarray]
    captions: list[str]

    @property
    def makes_pictures(self) -> bool:
        return any(part.kind == "visual" for part in self.task.task.outputs)


class _Samples:
    """Looks at parameters: decodes, compares and writes."""

    def __init__(
        self, config: FixedPrompts, run: KnownRun, prompts: list[_Prompt], tokenizers: Tokenizers
    ):
        self._config, self._run, self._prompts = config, run, prompts
        self._tokenizers = tokenizers
        first = prompts[0].task.sizes
        self._trained = Trained(
            config=run.model,
            clip=first.clip,
            sound=first.sound,
            tasks={prompt.task.name: prompt.task.task for prompt in prompts},
            facts={},
        )
        # On several hosts every one of them has to be able to read all rows.
        rows = partitioning.replicated(run.mesh) if jax.process_count() > 1 else None
        self._decoding = Decoding(schedule=run.schedule, row_sharding=rows)

    def __call__(self, params: Any, step: int) -> dict[str, Any]:
        """{"token_accuracy/TASK": share, "TASK": picture, "TASK_moving": clip} (`loop.Program`)."""
        engine = Engine(
            params=params,
            trained=self._trained,
            tokenizers=self._tokenizers,
            decoding=self._decoding,
        )
        is_first = jax.process_index() == 0
        found: dict[str, Any] = {}
        with tempfile.TemporaryDirectory() as scratch:
            for prompt in self._prompts:
                sizes = prompt.task.sizes
                sized = engine.at_size(sizes.clip, sizes.sound)
                made = self._decode(sized, prompt)
                share = token_accuracy(prompt.task.plan, prompt.fields, made)
                found[f"token_accuracy/{prompt.task.name}"] = share
                if is_first:
                    found |= self._write(sized, Path(scratch), prompt, made, share, step)
            if is_first:
                _publish(Path(scratch), epath.Path(self._run.model_dir) / FOLDER / str(step))
        return found

    def _decode(self, engine: Engine, prompt: _Prompt) -> dict[str, np.ndarray]:
        task, sampling = prompt.task, self._config.sampling
        if not task.task.has_text:
            sampling = dataclasses.replace(sampling, guidance=1.0)
        return engine.generate(task.name, prompt.fields, range(len(prompt.captions)), sampling)

    def _write(
        self,
        engine: Engine,
        folder: Path,
        prompt: _Prompt,
        made: Mapping[str, np.ndarray],
        share: float,
        step: int,
    ) -> dict[str, np.ndarray]:
        """Writes a task's files; returns its pictures."""
        name, sampling = prompt.task.name, self._config.sampling
        row = {
            "task": name,
            "step": step,
            "captions": prompt.captions,
            "sampling": dataclasses.asdict(sampling),
            "token_accuracy": share,
            "made": {field: codes.tolist() for field, codes in made.items()},
            "wanted": {field: np.asarray(prompt.fields[field]).tolist() for field in made},
        }
        (folder / f"{name}.json").write_text(json.dumps(row))
        if self._tokenizers.visual is None:
            return {}
        whole = {**prompt.fields, **made}
        frames = engine.decode_video(whole["visual"]) if "visual" in whole else None
        sound = engine.decode_sound(made["audio"]) if "audio" in made else None
        _write_media(folder, name, frames, sound, engine)
        if not prompt.makes_pictures:
            return {}
        originals = engine.decode_video(prompt.fields["visual"])[:, : frames.shape[1]]
        return _pictures(folder, name, originals, frames)


def token_accuracy(
    plan: SequencePlan, wanted: Mapping[str, Any], made: Mapping[str, np.ndarray]
) -> float:
    """Share of the output tokens that are those of the example, all slots together.

    Args:
      plan: Of the task.
      wanted: Local codes of the examples, visual [B, t, h, w] and audio [B, Q, F], from frame 0.
      made: The same as decoded.
    """
    equal: list[np.ndarray] = []
    for slot in plan.slots:
        if not slot.is_output:
            continue
        frames = slice(*slot.source)
        pair = [np.asarray(codes[slot.field]) for codes in (wanted, made)]
        if slot.kind == "audio":
            levels = slice(None) if slot.level is None else slot.level
            pair = [codes[:, levels, frames] for codes in pair]
        else:
            pair = [codes[:, frames] for codes in pair]
        equal.append((pair[0] == pair[1]).ravel())
    return float(np.concatenate(equal).mean())


def _write_media(
    folder: Path,
    name: str,
    frames: np.ndarray | None,
    sound: np.ndarray | None,
    engine: Engine,
) -> None:
    """A file an example: a clip with its sound, a picture, or sound alone."""
    from poet.media import images, write

    for index in range(len(sound if frames is None else frames)):
        stem = folder / f"{name}_{index}"
        heard = {}
        if sound is not None:
            heard = {"sound": sound[index], "sample_rate_hz": engine.sample_rate_hz}
        if frames is None:
            write.write_wav(stem.with_suffix(".wav"), **heard)
        elif frames.shape[1] == 1 and sound is None:
            images.write_image(stem.with_suffix(".png"), _enlarged(frames[index, 0]))
        else:
            scale = _scale(frames)
            rate = engine.clip.frames_per_second
            write.write_clip(stem.with_suffix(".mp4"), frames[index], rate, scale=scale, **heard)


def _pictures(
    folder: Path, name: str, originals: np.ndarray, made: np.ndarray
) -> dict[str, np.ndarray]:
    """Writes frames of uint8 clips [B, T, Y, X, 3] over what was made; returns that, and moving."""
    from poet.media import images

    pair = [clips.astype(np.float32) / 255 for clips in (originals, made)]
    strip = _enlarged(tokenizer_preview.strips(*pair), _scale(made))
    images.write_image(folder / f"{name}.png", strip)
    found = {name: strip}
    if made.shape[1] > 1:
        moving = tokenizer_preview.side_by_side(*pair)
        found[f"{name}_moving"] = _enlarged(moving, _scale(made))
    return found


def _scale(frames: np.ndarray) -> int:
    return max(1, -(-_SHOWN_PX // min(frames.shape[-3:-1])))


def _enlarged(pixels: np.ndarray, scale: int = 0) -> np.ndarray:
    """[..., Y, X, 3] with every pixel as a square."""
    scale = scale or _scale(pixels)
    return pixels.repeat(scale, -3).repeat(scale, -2)


def _publish(made: Path, final: epath.Path) -> None:
    """Puts a folder of files in its place; on a disk whole or not at all."""
    if _is_remote(final):  # Object stores have files that are whole, and no folders.
        for path in _files(made):
            (final / path.name).parent.mkdir(parents=True, exist_ok=True)
            (final / path.name).write_bytes(path.read_bytes())
        return
    partial = Path(final).with_name(f".{final.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(made, partial)
    shutil.rmtree(Path(final), ignore_errors=True)  # of a run that was killed and made it again
    partial.rename(Path(final))


def _is_remote(folder: epath.Path) -> bool:
    return "://" in str(folder)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.iterdir()) if path.is_file())

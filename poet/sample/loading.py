"""Loads a trained model with its tokenizers, checked against each other."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from etils import epath

from poet.sample.decode import Decoding
from poet.sample.engine import Engine, Tokenizers, Trained
from poet.tokens.clip import ClipShape, SoundShape
from poet.tokens.schedule import RASTER, Schedule
from poet.tokens.tasks import Task


def load_engine(
    checkpoint_dir: epath.PathLike,
    tokenizers_dir: epath.PathLike,
    decoding: Decoding | None = None,
    num_tensor: int = 1,
    size: str = "",
    averaged: bool = False,
    base_dir: epath.PathLike = "",
    step: int | str = "",
) -> Engine:
    """An engine from MODEL_DIR and a folder with visual/ and audio/.

    Args:
      checkpoint_dir: What `poet train` wrote.
      tokenizers_dir: What its dataset was prepared with.
      decoding: Types of weights and caches, order of tokens.
      num_tensor: Devices that the model's heads and hidden widths are spread over; for models
        that are larger than one device. The first so many are used.
      size: "square", "portrait" or "landscape", of a model that was trained on clips of several
        sizes; "" takes the first.
      averaged: Takes the moving average of the weights, of a run that kept one.
      base_dir: Where the base of a checkpoint of adapters lies; "" is where it lay in training.
      step: Of the checkpoint: a number, "best" (`LoopConfig.best_of`), or "" for the newest.

    Raises:
      ValueError: A folder is missing, naming the command that makes it; the tokenizers are not
        those that the model was trained with, naming both fingerprints; there are fewer devices;
        it was trained on no clips of that size, or keeps no average; it holds adapters of a base
        that is not there, or is another one.
    """
    from poet.train import checkpoint, lm, lora
    from poet.train.meta import from_json

    visual, audio = load_tokenizers(tokenizers_dir)
    if not epath.Path(checkpoint_dir).exists():
        raise ValueError(
            f"Expected a trained model in {checkpoint_dir}, found nothing there; make one with"
            " `poet train --gin_file=gin/runs/demo.gin`, run `make demo`, or pass --checkpoint."
        )
    meta = checkpoint.read_meta(checkpoint_dir, checkpoint.find_step(checkpoint_dir, step))
    _check_tokenizers(checkpoint_dir, meta, tokenizers_dir, {"visual": visual, "audio": audio})
    config = lm.model_from_meta(meta)
    clips = [from_json(ClipShape, clip) for clip in (meta["clip"], *meta.get("clips", ()))]
    clip = _of_size(clips, size)
    sound = from_json(SoundShape, meta["sound"]) if meta["sound"] else None
    if sound is not None:
        sound = SoundShape.for_clip(
            clip, sound.num_levels, sound.samples_per_frame, sound.sample_rate_hz
        )
    trained = Trained(
        config=config,
        clip=clip,
        sound=sound,
        tasks={name: from_json(Task, task) for name, task in meta["task_values"].items()},
        facts={
            "model_dir": str(checkpoint_dir),
            "step": meta["step"],
            "dataset_fingerprint": meta["dataset_fingerprint"],
            "tokenizers": meta["tokenizers"],
            **({"weights": "averaged"} if averaged else {}),
            **({"base": meta["base"]} if "base" in meta else {}),
        },
    )
    like = None if num_tensor == 1 else _spread(trained, num_tensor)
    if meta["kind"] == lora.KIND:
        params = lora.load_merged(checkpoint_dir, meta, like, averaged, base_dir)
    elif base_dir:
        raise ValueError(
            f"{checkpoint_dir} is a whole model, not adapters of one; leave out --base {base_dir}."
        )
    else:
        params = checkpoint.load_params(checkpoint_dir, meta["step"], like, averaged)
    return Engine(
        params=params,
        trained=trained,
        tokenizers=Tokenizers(visual=visual, audio=audio, text=lm.text_tokenizer_from_meta(meta)),
        decoding=decoding,
    )


def _check_tokenizers(
    checkpoint_dir: epath.PathLike,
    meta: Mapping[str, Any],
    tokenizers_dir: epath.PathLike,
    tokenizers: Mapping[str, Any],
) -> None:
    """ValueError unless these are the tokenizers that the model was trained with."""
    for kind, tokenizer in tokenizers.items():
        trained = meta["tokenizers"].get(kind)
        if trained is not None and trained != tokenizer.fingerprint:
            raise ValueError(
                f"The model in {checkpoint_dir} was trained on ids of the {kind} tokenizer"
                f" {trained[:12]}, but {tokenizers_dir} holds {tokenizer.fingerprint[:12]};"
                " pass the --tokenizers that its dataset was prepared with."
            )


def trained_schedule(checkpoint_dir: epath.PathLike) -> Schedule:
    """The order of visual tokens that a checkpoint was trained for; raster if it does not say.

    A folder without a checkpoint is left for `load_engine` to refuse.
    """
    from poet.train import checkpoint
    from poet.train.meta import from_json

    try:
        meta = checkpoint.read_meta(checkpoint_dir)
    except (ValueError, OSError):
        return RASTER
    return from_json(Schedule, meta["schedule"]) if "schedule" in meta else RASTER


def _of_size(clips: Sequence[ClipShape], size: str) -> ClipShape:
    """The first clip of that form; all have as many frames as the first of all, or are left out."""
    forms: dict[str, ClipShape] = {"": clips[0]}
    for clip in clips:
        if clip.num_frames == clips[0].num_frames:
            form = "portrait" if clip.height_px > clip.width_px else "landscape"
            forms.setdefault("square" if clip.height_px == clip.width_px else form, clip)
    if size not in forms:
        known = (f"{form} ({c.width_px} x {c.height_px} px)" for form, c in forms.items() if form)
        raise ValueError(
            f"A size of {size!r} was asked for, but this checkpoint makes clips of"
            f" {' and '.join(known)}; choose that, or another --checkpoint."
        )
    return forms[size]


def _spread(trained: Trained, num_tensor: int) -> Any:
    """Shapes of the parameters with shardings over so many devices."""
    from poet.models.prefix_lm import PrefixLM
    from poet.tokens import sequence
    from poet.train import partitioning

    if not 1 <= num_tensor <= len(jax.devices()):
        raise ValueError(
            f"The model cannot be spread over {num_tensor} devices, because there are"
            f" {len(jax.devices())}; ask for 1 to {len(jax.devices())}."
        )
    sizes = partitioning.MeshConfig(fsdp=1, tensor=num_tensor, num_devices=num_tensor)
    mesh = partitioning.make_mesh(sizes)
    config, task = trained.config, next(iter(trained.tasks.values()))
    plan = sequence.plan(task, trained.clip, trained.sound, config.text_slots, config.vocabulary)
    batch = {
        "decoder_input_tokens": np.zeros((1, plan.length - 1), np.int32),
        "text_ids": np.zeros((1, max(1, plan.num_text_slots)), np.int32),
    }
    boxed = jax.eval_shape(lambda key: PrefixLM(config).init(key, plan, batch), jax.random.key(0))[
        "params"
    ]
    shardings = partitioning.param_shardings(boxed, mesh)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        nn.meta.unbox(boxed),
        shardings,
    )


def load_tokenizers(folder: epath.PathLike) -> tuple[Any, Any]:
    """(visual, audio) tokenizers of a folder.

    Raises:
      ValueError: One is missing, naming the command that makes it.
    """
    from poet.tokenizers import protocol

    for kind in ("visual", "audio"):
        path = epath.Path(folder) / kind
        if not (path / "config.json").exists():
            raise ValueError(
                f"Expected a trained {kind} tokenizer in {path}, found none; make it with"
                f" `poet train-tokenizer --gin_file=gin/tokenizers/{kind}_demo.gin --media=..."
                f" --out={path}`, run `make demo`, or pass --tokenizers."
            )
    return protocol.load(epath.Path(folder) / "visual"), protocol.load(epath.Path(folder) / "audio")

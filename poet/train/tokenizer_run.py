"""Trains a tokenizer on media files: settings and recipes, then the common loop.

Axes: W clips, T frames, Y rows, X columns, S samples.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh

import poet
from poet.data import masking
from poet.tokenizers import audio, protocol, visual
from poet.tokenizers.magvit2 import MagvitConfig
from poet.tokenizers.soundstream import SoundStreamConfig
from poet.train import (
    agreement,
    audio_step,
    gathering,
    loop,
    partitioning,
    tokenizer_checks,
    tokenizer_media,
    tokenizer_watch,
    visual_step,
)
from poet.train.audio_step import AudioLossConfig
from poet.train.compiling import (
    BackgroundCompiler,
    compiled_step,
    run_once,
    step_compiles,
    with_sharding,
)
from poet.train.meta import to_json
from poet.train.optimizer import OptimizerConfig, convolution_kernels, make_optimizer, rate_at
from poet.train.partitioning import MeshConfig
from poet.train.progress import Progress
from poet.train.state import TrainState
from poet.train.step import TrainStep
from poet.train.tokenizer_preview import Compare, VisualPreview
from poet.train.visual_step import VisualLossConfig

BatchAt = Callable[[int], tuple[str, Any]]
Evaluate = Callable[[TrainState, int], Mapping[str, Any]]

# Clips that are looked at while training.
_NUM_PREVIEWS = 4


@runtime_checkable
class Recipe(Protocol):
    """What is different between the tokenizers."""

    kind: str

    def media_facts(self) -> dict[str, Any]:
        """How files are read; a change makes the cached arrays useless."""
        ...

    def read(self, rows: Any, on_file: Callable[[int], None]) -> np.ndarray:
        """The media as one array."""
        ...

    def batch_at(self, media: np.ndarray, seed: int) -> BatchAt:
        """step -> (group, batch)."""
        ...

    def init(self, key: Any, tx: Any) -> TrainState:
        """State before step 0."""
        ...

    def batches(self) -> Mapping[str, jax.ShapeDtypeStruct]:
        """Group -> shape of its batches, in the order in which they are first needed."""
        ...

    def step(self, tx: Any) -> TrainStep:
        """The pure step."""
        ...

    def note(self, measures: Mapping[str, float]) -> str:
        """Measures of a step as words for the progress line."""
        ...

    def alarms(self, step: int, row: Mapping[str, float]) -> Mapping[str, str]:
        """Sentences about what goes wrong, see `loop.Program`."""
        ...

    def preview(self, clips: np.ndarray, compare: Compare, mesh: Mesh) -> Evaluate | None:
        """What is looked at while training, of a few of `read`'s arrays."""
        ...

    def save(self, state: TrainState, out: Path) -> str:
        """Writes the tokenizer; returns its fingerprint."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisualRecipe:
    """A MAGVIT-v2 on clips.

    Attributes:
      model: Sizes.
      losses: What it is trained for.
      height_px: Of the clips trained on.
      width_px: Of the clips trained on.
      num_frames: Of the clips in memory.
      frames_per_second: Rate that files are read at.
      frames_per_batch: Frames of a step; the batch size of a length follows.
      length_shares: (number of frames, share of the steps) of the crops in time, 1 + 4k frames
        each. Empty: whole clips.
      image_steps: First steps, on single frames: cheap, and where a frame's look is learned. The
        model is inflated to video after them.
      images_per_batch: Frames of such a step.
      hidden_share: Share of the crops with a random region hidden, as painting is given them.
    """

    model: MagvitConfig = MagvitConfig()
    losses: VisualLossConfig = VisualLossConfig()
    height_px: int = 32
    width_px: int = 32
    num_frames: int = 17
    frames_per_second: float = 8.0
    frames_per_batch: int = 136
    length_shares: tuple[tuple[int, float], ...] = ()
    image_steps: int = 0
    images_per_batch: int = 16
    hidden_share: float = 0.0
    kind: str = dataclasses.field(default="visual", init=False)

    def __post_init__(self):
        shares = tuple((int(n), float(share)) for n, share in self.length_shares)
        object.__setattr__(self, "length_shares", shares or ((self.num_frames, 1.0),))
        for num_frames, share in self.length_shares:
            if not 1 <= num_frames <= self.num_frames or num_frames % 4 != 1 or not share > 0:
                raise ValueError(
                    f"length_shares has {num_frames} frames with share {share}; expected 1 + 4k"
                    f" frames, at most num_frames={self.num_frames}, and a positive share."
                )
        counts = (self.image_steps, self.images_per_batch - 1)
        if min(counts) < 0 or not 0 <= self.hidden_share <= 1:
            raise ValueError(
                f"image_steps={self.image_steps} must be 0 or more, images_per_batch="
                f"{self.images_per_batch} 1 or more, hidden_share={self.hidden_share} a share."
            )

    def media_facts(self) -> dict[str, Any]:
        """How files are read."""
        names = ("kind", "height_px", "width_px", "num_frames", "frames_per_second")
        return {name: getattr(self, name) for name in names}

    def read(self, rows: Any, on_file: Callable[[int], None]) -> np.ndarray:
        """uint8 [W, T, Y, X, 3]."""
        facts = self.media_facts()
        del facts["kind"]
        return tokenizer_media.read_frames(rows, **facts, on_file=on_file)

    def batch_at(self, media: np.ndarray, seed: int) -> BatchAt:
        """Crops in time of random clips; a length is a group, with its own batch size."""
        lengths = [num_frames for num_frames, _ in self.length_shares]
        shares = np.array([share for _, share in self.length_shares])
        cumulative = np.cumsum(shares / shares.sum())

        def batch_at(step: int) -> tuple[str, np.ndarray]:
            draw = np.random.Generator(np.random.Philox(key=[seed, step]))
            index = int((draw.random() >= cumulative[:-1]).sum())
            length = lengths[index]
            group, size = f"{length}_frames", max(1, round(self.frames_per_batch / length))
            if step < self.image_steps:
                group, length, size = "images", 1, self.images_per_batch
            rows = draw.integers(0, len(media), size)
            starts = draw.integers(0, self.num_frames - length + 1, size)
            clips = masking.hide_some([media[w] for w in rows], self.hidden_share, draw)
            crops = [clip[t : t + length] for clip, t in zip(clips, starts, strict=True)]
            return group, np.stack(crops)

        return batch_at

    def init(self, key: Any, tx: Any) -> TrainState:
        """State before step 0."""
        shapes = [batch.shape[1:4] for batch in self.batches().values()]
        return visual_step.init(key, self.model, self.losses, tx, shapes)

    def batches(self) -> Mapping[str, jax.ShapeDtypeStruct]:
        """Shapes of images, if there are steps on images, then of each length of clips."""
        sizes = {"images": (self.images_per_batch, 1)} if self.image_steps else {}
        for length, _ in self.length_shares:
            sizes[f"{length}_frames"] = (max(1, round(self.frames_per_batch / length)), length)
        picture = (self.height_px, self.width_px, 3)
        return {
            group: jax.ShapeDtypeStruct((*size, *picture), np.uint8)
            for group, size in sizes.items()
        }

    def step(self, tx: Any) -> TrainStep:
        """The pure step."""
        return visual_step.make_step(self.model, self.losses, tx, self.image_steps)

    def note(self, measures: Mapping[str, float]) -> str:
        """PSNR, codes in use, the discriminator."""
        return tokenizer_watch.visual_note(measures)

    def alarms(self, step: int, row: Mapping[str, float]) -> Mapping[str, str]:
        """Collapse of the codes, a discriminator that has won."""
        window = self.losses.codes_window
        return tokenizer_watch.visual_alarms(
            step,
            row,
            num_codes=self.model.num_codes,
            window=window,
            floor=self.losses.codes_floor,
            start=max(2 * window, self.losses.hardening_steps),
        )

    def preview(self, clips: np.ndarray, compare: Compare, mesh: Mesh) -> Evaluate | None:
        """Scores and strips of reconstructions."""
        return VisualPreview(self.model, clips, compare, mesh)

    def save(self, state: TrainState, out: Path) -> str:
        """Writes the tokenizer; returns its fingerprint."""
        params = visual_step.tokenizer_params(state)
        return protocol.save(out, visual.KIND, self.model, params)


# After the codebooks are placed, dead codes take so many steps to find places of their own.
_SETTLING_STEPS = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class AudioRecipe:
    """A SoundStream on sounds.

    Attributes:
      model: Sizes.
      losses: What it is trained for.
      num_samples: Of the stretches in memory; files are cut into them.
      crop_samples: Of a training example.
      grid_samples: Crops start at multiples of this.
      num_candidates: Each crop is the loudest of so many draws, see `audio_step.crops_at`.
      batch_size: Examples a step.
    """

    model: SoundStreamConfig = SoundStreamConfig()
    losses: AudioLossConfig = AudioLossConfig()
    num_samples: int = 33_920
    crop_samples: int = 9_600
    grid_samples: int = 1
    num_candidates: int = 1
    batch_size: int = 16
    kind: str = dataclasses.field(default="audio", init=False)

    def __post_init__(self):
        hop = self.model.samples_per_frame
        if self.crop_samples % hop or not hop <= self.crop_samples <= self.num_samples:
            raise ValueError(
                f"crop_samples={self.crop_samples} must be whole frames of {hop} samples, at most"
                f" num_samples={self.num_samples}; try {max(1, self.crop_samples // hop) * hop}."
            )
        if self.batch_size < 1 or self.grid_samples < 1:
            raise ValueError(
                f"batch_size={self.batch_size} and grid_samples={self.grid_samples} must be at"
                " least 1."
            )

    def media_facts(self) -> dict[str, Any]:
        """How files are read."""
        return {
            "kind": self.kind,
            "num_samples": self.num_samples,
            "sample_rate_hz": self.model.sample_rate_hz,
        }

    def read(self, rows: Any, on_file: Callable[[int], None]) -> np.ndarray:
        """float32 [W, S]."""
        facts = self.media_facts()
        del facts["kind"]
        return tokenizer_media.read_sounds(rows, **facts, on_file=on_file)

    def batch_at(self, media: np.ndarray, seed: int) -> BatchAt:
        """Random crops."""

        def batch_at(step: int) -> tuple[str, np.ndarray]:
            return "crops", audio_step.crops_at(
                media,
                step,
                seed=seed,
                batch_size=self.batch_size,
                crop_samples=self.crop_samples,
                grid_samples=self.grid_samples,
                num_candidates=self.num_candidates,
            )

        return batch_at

    def init(self, key: Any, tx: Any) -> TrainState:
        """State before step 0."""
        return audio_step.init(key, self.model, tx, self.losses, self.crop_samples)

    def batches(self) -> Mapping[str, jax.ShapeDtypeStruct]:
        """Shape of the crops."""
        shape = (self.batch_size, self.crop_samples)
        return {"crops": jax.ShapeDtypeStruct(shape, np.float32)}

    def step(self, tx: Any) -> TrainStep:
        """The pure step."""
        return audio_step.make_step(self.model, self.losses, tx)

    def note(self, measures: Mapping[str, float]) -> str:
        """Signal to noise and codes of the first level."""
        return f"{measures['snr_db']:.1f} dB SNR, {measures['codes_used_0']:,.0f} codes"

    def alarms(self, step: int, row: Mapping[str, float]) -> Mapping[str, str]:
        """Levels whose codes collapse, discriminators that have won."""
        return tokenizer_watch.audio_alarms(
            step,
            row,
            num_levels=self.model.num_levels,
            num_codes=self.model.codebook_size,
            num_frames=self.batch_size * self.crop_samples // self.model.samples_per_frame,
            floor=self.losses.codes_floor,
            start=self.losses.start_step + _SETTLING_STEPS,
        )

    def preview(self, clips: np.ndarray, compare: Compare, mesh: Mesh) -> Evaluate | None:
        """Nothing: there are no pictures of sound."""
        del clips, compare, mesh
        return None

    def save(self, state: TrainState, out: Path) -> str:
        """Writes the tokenizer; returns its fingerprint."""
        return protocol.save(out, audio.KIND, self.model, audio.tokenizer_params(state))


# Settings that only watch a run; other ones continue it.
_WATCH = (
    "num_kept", "profile_first", "profile_steps", "check_period", "straggler_period",
    "straggler_factor", "stall_minutes",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerRun:
    """A training run of a tokenizer.

    Attributes:
      recipe: A VisualRecipe or an AudioRecipe.
      optimizer: How parameters move.
      num_steps: Steps in all.
      save_period: Steps between checkpoints.
      log_period: Steps between rows of metrics.
      seed: Of the weights, the batches and the draws of the steps.
      split: Of the manifest; rows without a split count as "train".
      num_files: At most so many files of the split, the first of the manifest; 0 takes all. A
        tokenizer needs fewer than a language model, and reading takes time and memory.
      preview_period: Steps between looks at a few clips of `preview_splits`: PSNR and SSIM of first
        and later frames, strips of reconstructions in TensorBoard. 0 for none; pictures only.
      preview_splits: The first of these that the media have gives the clips, else the training
        clips do.
      mesh: How the devices are laid out; rows of a batch are split over replica x fsdp, parameters
        over fsdp. None uses as many devices as divide the batches.
      num_kept, profile_first, profile_steps, check_period, straggler_period, straggler_factor,
        stall_minutes: As in `loop.LoopConfig`.
    """

    recipe: Recipe
    num_steps: int
    optimizer: OptimizerConfig = OptimizerConfig(b2=0.99)
    save_period: int = 500
    log_period: int = 10
    seed: int = 0
    split: str = "train"
    num_files: int = 0
    preview_period: int = 0
    preview_splits: tuple[str, ...] = ("validation", "held_out")
    mesh: MeshConfig | None = None
    num_kept: int = 2
    profile_first: int = 10
    profile_steps: int = 0
    check_period: int = 0
    straggler_period: int = 0
    straggler_factor: float = 1.2
    stall_minutes: float = 0.0

    def __post_init__(self):
        object.__setattr__(self, "preview_splits", tuple(self.preview_splits))
        if self.num_files < 0:
            raise ValueError(f"num_files={self.num_files} must be 0 or more; 0 takes all files.")
        if self.preview_period < 0:
            raise ValueError(f"preview_period={self.preview_period} must be 0 or more.")

    def loop_config(self, model_dir: Path) -> loop.LoopConfig:
        """The settings of the loop; ValueError where one is out of range."""
        shared = ("num_steps", "save_period", "log_period", "seed", *_WATCH)
        settings = {name: getattr(self, name) for name in shared}
        return loop.LoopConfig(model_dir=model_dir, eval_period=self.preview_period, **settings)


def train(
    run: TokenizerRun,
    media: str,
    out: Path,
    operative_config: Callable[[], str] | None = None,
    compare: Compare | None = None,
) -> str:
    """Trains, or goes on training, writes the tokenizer to `out` and returns its fingerprint.

    Of several processes each reads all media and makes whole batches, of which its devices take
    their rows; the first one writes, and the others return "".

    Args:
      run: The settings.
      media: A folder of media files or a manifest.
      out: Gets the tokenizer, `train/` with checkpoints and metrics, and `cache/` with the media.
      operative_config: Gives the text of the configuration that is saved with checkpoints.
      compare: Scores of reconstructions, for previews.

    Raises:
      ValueError: when there is nothing to train on, or `out` holds a run with other settings.
      DisagreementError: when processes have other code, settings or media.
    """
    recipe, settings = run.recipe, run.loop_config(out / "train")
    rows = tokenizer_media.rows_of_split(media, run.split)[: run.num_files or None]
    key = tokenizer_media.media_key(rows, recipe.media_facts())
    # How long, how watched and where it runs is no part of what a run is.
    same = dataclasses.replace(run, num_steps=0, save_period=1, preview_period=0, mesh=None)
    facts = {
        "kind": f"{recipe.kind}_tokenizer",
        "poet_version": poet.__version__,
        "settings": {k: v for k, v in to_json(same).items() if k not in _WATCH},
        "media": {"path": str(media), "key": key, "num_files": len(rows)},
    }
    agreement.check_hosts({**facts, "loop": settings, "mesh": run.mesh})
    tokenizer_checks.check_same_run(out / "train", facts)
    clips = tokenizer_media.cached(out / "cache" / f"{key}.npy", lambda: _read(recipe, rows))

    tx = make_optimizer(run.optimizer, run.num_steps, convolution_kernels)
    batches = recipe.batches()
    mesh = partitioning.mesh_for_rows(run.mesh, [batch.shape[0] for batch in batches.values()])
    tokenizer_checks.check_rows(batches, mesh)
    tokenizer_checks.check_processes(mesh)
    init = functools.partial(recipe.init, tx=tx)
    shard = functools.partial(partitioning.shardings_by_size, mesh=mesh)
    shapes = jax.eval_shape(init, jax.random.key(0))
    shardings = shard(shapes)
    state = jax.tree.map(with_sharding, shapes, shardings)
    rows = partitioning.batch_sharding(mesh)
    inputs = {group: with_sharding(batch, rows) for group, batch in batches.items()}
    compiler = BackgroundCompiler(step_compiles(recipe.step(tx), state, inputs, shard))
    program = loop.Program(
        name=f"train-tokenizer {recipe.kind}",
        init=functools.partial(run_once, init, out_shardings=shardings),
        batch_at=recipe.batch_at(clips, run.seed),
        step_for=functools.partial(compiled_step, compiler),
        warm_up=compiler.start,
        clean_up=compiler.cancel,
        place=functools.partial(partitioning.place_rows, mesh=mesh),
        evaluate=_preview(run, media, clips, compare, mesh),
        state_shapes=state,
        rate=rate_at(run.optimizer, run.num_steps),
        note=recipe.note,
        alarms=recipe.alarms,
        describe=(
            ("media", f"{media}, array {clips.shape} {clips.dtype}"),
            ("devices", f"{mesh.size} of {len(jax.devices())} ({jax.devices()[0].device_kind})"),
        ),
    )

    def meta(step: int) -> dict[str, Any]:
        del step
        return facts | {"operative_config": operative_config() if operative_config else ""}

    state = gathering.whole_model(loop.run(program, settings, meta))
    return recipe.save(state, out) if jax.process_index() == 0 else ""


def _preview(
    run: TokenizerRun, media: str, clips: np.ndarray, compare: Compare | None, mesh: Mesh
) -> Evaluate | None:
    """Looks at clips that are not trained on, where the media have some."""
    if not run.preview_period or compare is None:
        return None
    rows = tokenizer_media.first_rows(media, run.preview_splits, _NUM_PREVIEWS)
    if rows:
        clips = run.recipe.read(rows, lambda done: None)
    return run.recipe.preview(clips[:_NUM_PREVIEWS], compare, mesh)


def _read(recipe: Recipe, rows: Any) -> np.ndarray:
    with Progress(f"read {recipe.kind} media", len(rows), unit="files") as progress:
        return recipe.read(rows, progress.update)

"""Trains the language model on a prepared dataset: settings, checks, then the common loop."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
from absl import logging
from etils import epath

import poet
from poet.data import registry
from poet.data.batches import AgdBatches
from poet.data.groups import AgdConfig, Curriculum, SequenceSizes
from poet.data.records import Dataset, open_dataset
from poet.models.config import PrefixLMConfig
from poet.models.prefix_lm import PrefixLM
from poet.tokenizers.sentencepiece import SentencePieceTokenizer
from poet.tokenizers.text import ByteTokenizer, WordTokenizer
from poet.tokens.clip import ClipShape, SoundShape
from poet.tokens.schedule import RASTER, Schedule
from poet.tokens.vocabulary import Vocabulary
from poet.train import (
    agreement,
    checkpoint,
    lm_describe,
    lm_watch,
    loop,
    lora,
    origin,
    partitioning,
)
from poet.train.lm_program import Evaluation, LMPrograms, TextStart, Updates, lm_program
from poet.train.lora import LoraConfig
from poet.train.meta import first_difference, from_json, to_json
from poet.train.optimizer import OptimizerConfig, make_optimizer
from poet.train.partitioning import MeshConfig
from poet.train.state import TrainState

KIND = "prefix_lm"

TextTokenizer = ByteTokenizer | WordTokenizer | SentencePieceTokenizer
# By the name that checkpoints know them by.
TEXT_TOKENIZERS = {
    cls.__name__: cls for cls in (ByteTokenizer, WordTokenizer, SentencePieceTokenizer)
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class LMRun:
    """A training run of the language model.

    Attributes:
      data_dir: What `poet prepare` wrote.
      mixture_or_task_name: A name that a module of `task_modules` registers.
      model: Sizes. Its vocabulary and the text encoder's number of ids are replaced: they follow
        from the dataset's tokenizers and from `text_tokenizer`.
      loop: Where to, how long, and when to save and evaluate.
      batch_tokens: Tokens of a step, over all devices.
      text_tokenizer: Captions to ids; bytes if None.
      text_weights: Folder of a published T5 (see `models.t5_weights`) that a fresh run begins with;
        the model's `text` must have its sizes. "" draws the text encoder's weights.
      text_is_frozen: Whether the text encoder stays as it began: no gradients, no optimizer state.
        Its weights lie in the checkpoints all the same, so that these are whole.
      schedule: Order of visual tokens that the model is trained and evaluated for. Another than
        raster is meant for a short run that adapts a trained model (see `PrefixLM`).
      init_from: MODEL_DIR of another run, whose newest parameters a fresh run begins with, text
        encoder included; its optimizer and its data begin anew. A run that goes on ignores it.
      adapters: Low-rank adapters of the parameters in `init_from`, which train in their place; the
        checkpoints then hold nothing else, and a run that goes on needs `init_from` too.
      optimizer: How parameters move.
      updates: Micro-batches, and the moving average of the weights; neither by default.
      mesh: How the devices are laid out.
      evaluation: What is held out.
      sampler: Decodes every `LoopConfig.sample_period` steps.
      peak_tflops: What one device can do in a second, for MFU; 0 takes the table's number where the
        chip is in it, and else leaves MFU out.
      task_modules: Modules or files that register tasks.
      task_weights: Relative steps of tasks that replace the mixture's.
      known_tasks: A task or mixture that the model may be asked for as well, though it never trains
        on it: comparisons of task sets ask every model for everything. "" for none.
      curriculum: Schedule over image and video tasks.
      text_dropout: Share of the examples that lose their text, for guidance.
      train_split: The split trained on.
      on_bad_record: "raise", or "skip" to train without damaged records, which are counted.
      on_unserved_task: "raise" where the dataset lacks what a task of the mixture needs, or
        "leave_out" to train the others.
    """

    data_dir: epath.PathLike
    mixture_or_task_name: str
    model: PrefixLMConfig
    loop: loop.LoopConfig
    batch_tokens: int
    text_tokenizer: TextTokenizer | None = None
    text_weights: str = ""
    text_is_frozen: bool = False
    schedule: Schedule = RASTER
    init_from: str = ""
    adapters: LoraConfig | None = None
    optimizer: OptimizerConfig = OptimizerConfig()
    updates: Updates = Updates()
    mesh: MeshConfig = MeshConfig()
    evaluation: Evaluation = Evaluation()
    sampler: lm_watch.Sampler | None = None
    peak_tflops: float = 0.0
    task_modules: tuple[str, ...] = ("tasks.paper", "tasks.mixtures")
    task_weights: Mapping[str, float] | None = None
    known_tasks: str = ""
    curriculum: Curriculum | None = None
    text_dropout: float = 0.1
    train_split: str = "train"
    on_bad_record: str = "raise"
    on_unserved_task: str = "raise"

    def __post_init__(self):
        object.__setattr__(self, "task_modules", tuple(self.task_modules))
        if self.text_tokenizer is None:
            object.__setattr__(self, "text_tokenizer", ByteTokenizer(self.model.text_slots))
        if self.text_tokenizer.num_slots != self.model.text_slots:
            raise ValueError(
                f"The model has text_slots={self.model.text_slots}, the text tokenizer"
                f" {self.text_tokenizer.num_slots}; give both the same number."
            )
        if self.loop.max_skips:
            updates = dataclasses.replace(self.updates, skips_non_finite=True)
            object.__setattr__(self, "updates", updates)
        if self.loop.sample_period and self.sampler is None:
            raise ValueError(
                f"sample_period={self.loop.sample_period} needs something that samples; set"
                " LMRun.sampler, for example to @watching.FixedPrompts(), or the period to 0."
            )
        if not 0 <= self.peak_tflops < float("inf"):
            raise ValueError(
                f"peak_tflops={self.peak_tflops} must be 0 (the table's) or more; 459 is a v5p."
            )
        if self.adapters and not self.init_from:
            raise ValueError(
                "Adapters need the model that they adapt; set LMRun.init_from to the MODEL_DIR of a"
                " trained one."
            )


def train(run: LMRun, operative_config: Callable[[], str] | None = None) -> TrainState:
    """Trains, or goes on training, and returns the final state.

    Args:
      run: The settings.
      operative_config: Gives the text of the configuration that is saved with checkpoints.

    Raises:
      ValueError: when dataset, tasks, model, mesh or an older checkpoint do not fit together;
        nothing is written before these checks.
    """
    registry.load_task_modules(run.task_modules)
    tasks = registry.resolve(run.mixture_or_task_name, run.task_weights)
    dataset = open_dataset(run.data_dir)
    sizes = sizes_of(dataset, run.text_tokenizer)
    config = model_for(run.model, sizes, keeps_text_rows=bool(run.text_weights))
    facts = _facts(run, dataset, sizes, config)
    agreement.check_hosts(_of_all_hosts(run, facts))
    mesh = partitioning.make_mesh(run.mesh)
    before = check_same_run(run.loop.model_dir, facts)
    # A host whose view of MODEL_DIR is older would go on with batches of other sizes.
    agreement.check_hosts({"the checkpoint that they go on from": before})
    agd = _agd(run, mesh, before.get("batch_sizes"))
    batches = AgdBatches(dataset, tasks, sizes, run.text_tokenizer, agd)
    for group in batches.groups.values():
        check_limits(config, group.plan.clip, group.plan.sound)
    facts["clips"] = _clips(batches)
    facts["batch_sizes"] = {name: group.batch_size for name, group in batches.groups.items()}
    if run.loop.seed < 0:
        raise ValueError(f"seed={run.loop.seed} must be 0 or more.")

    tx = make_optimizer(run.optimizer, run.loop.num_steps)
    text = TextStart(weights=run.text_weights, is_frozen=run.text_is_frozen)
    programs = LMPrograms(
        PrefixLM(config, run.schedule),
        tx,
        mesh,
        batches,
        text,
        updates=run.updates,
        adapters=run.adapters,
    )
    begins_with = None
    if run.init_from and (run.adapters or not before):
        theirs = facts | {"kind": KIND}
        begins_with = origin.find(run.init_from, theirs, programs.model_shapes)
    facts["init_from"] = before["init_from"] if before else to_json(begins_with)
    if run.adapters:
        facts["base"] = _adapt(programs, begins_with, before)
        begins_with = None
    splits = tuple(name for name in run.evaluation.splits if dataset.splits.get(name))
    evaluation = dataclasses.replace(run.evaluation, splits=splits)
    describe = lm_describe.rows(dataset, batches, programs.model_shapes, mesh, facts)
    program = lm_program(programs, batches, evaluation, mesh, describe, begins_with)
    known = lm_watch.KnownRun(
        model=config,
        batches=batches,
        splits=splits,
        train_split=run.train_split,
        text_tokenizer=run.text_tokenizer,
        tokenizers=dataset.fingerprints,
        schedule=run.schedule,
        mesh=mesh,
        model_dir=run.loop.model_dir,
    )
    program = lm_watch.watched(program, run, known, programs.whole_params)

    def meta(step: int) -> dict[str, Any]:
        text = operative_config() if operative_config else ""
        return facts | {"data_positions": batches.positions(step), "operative_config": text}

    state = loop.run(program, run.loop, meta)
    if batches.bad_records:
        logging.warning("%d damaged records were skipped.", len(batches.bad_records))
    return state


def _adapt(programs: LMPrograms, base: origin.Origin, before: Mapping[str, Any]) -> str:
    """Gives the programs the base of their adapters, and returns its fingerprint.

    Raises:
      ValueError: when the run that goes on had another base.
    """
    wanted = ""
    if before:
        base = dataclasses.replace(base, step=before["init_from"]["step"])
        wanted = before["base"]
    params = lora.load_base(base, programs.model_shapes, wanted)
    programs.adapt(params)
    return wanted or lora.fingerprint(params)


def sizes_of(dataset: Dataset, text_tokenizer: TextTokenizer) -> SequenceSizes:
    """Returns clip, sound and id table of a prepared dataset, with the text tokenizer's ids.

    Raises:
      ValueError: when the dataset does not say how its ids were made.
    """
    facts = dataset.metadata
    try:
        codes, rules = facts["num_codes"], facts["preprocessing"]
        clip = ClipShape(
            num_frames=rules["num_frames"],
            height_px=rules["height_px"],
            width_px=rules["width_px"],
            frames_per_second=rules["frames_per_second"],
            # Older datasets do not say these; theirs were always the paper's.
            px_per_token=facts.get("px_per_token", 8),
            frames_per_token=facts.get("frames_per_token", 4),
        )
        levels, num_visual = tuple(codes["audio"]), codes["visual"]
        hop, rate_hz = facts.get("samples_per_audio_frame", 320), rules["sample_rate_hz"]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"Dataset {dataset.directory} does not say how its ids were made ({error} is missing);"
            " expected what `poet prepare` writes down. Prepare it again."
        ) from error
    sound = SoundShape.for_clip(clip, len(levels), hop, rate_hz) if levels else None
    return SequenceSizes(
        clip=clip,
        sound=sound,
        text_slots=text_tokenizer.num_slots,
        vocabulary=Vocabulary(
            num_visual=num_visual, audio_levels=levels, num_text=text_tokenizer.num_ids
        ),
    )


def model_for(
    model: PrefixLMConfig, sizes: SequenceSizes, keeps_text_rows: bool = False
) -> PrefixLMConfig:
    """Returns the model's config with the id table of the data.

    Args:
      keeps_text_rows: Whether the text encoder keeps its number of rows; a published one has more
        of them than its tokenizer has ids.
    """
    text = model.text
    if not keeps_text_rows:
        text = dataclasses.replace(text, num_ids=sizes.vocabulary.num_text)
    return dataclasses.replace(model, vocabulary=sizes.vocabulary, text=text)


def model_from_meta(meta: Mapping[str, Any]) -> PrefixLMConfig:
    """Returns the config of the model that a checkpoint's facts describe (see `read_meta`).

    Raises:
      ValueError: when the checkpoint is of something else.
    """
    if meta.get("kind") not in (KIND, lora.KIND):
        raise ValueError(
            f"Expected the checkpoint of a language model, got one of {meta.get('kind')!r}; pass"
            " the MODEL_DIR of `poet train`."
        )
    return from_json(PrefixLMConfig, meta["model"])


def text_tokenizer_from_meta(meta: Mapping[str, Any]) -> TextTokenizer:
    """Returns the text tokenizer that a checkpoint's model was trained with.

    Raises:
      ValueError: when this Poet would read text differently.
    """
    facts = meta["text_tokenizer"]
    if facts["name"] not in TEXT_TOKENIZERS:
        raise ValueError(
            f"The checkpoint was trained with the text tokenizer {facts['name']!r}, this Poet has"
            f" {', '.join(TEXT_TOKENIZERS)}; use the version of Poet that trained it"
            f" ({meta.get('poet_version')})."
        )
    sizes = {name: size for name, size in facts.items() if name not in ("name", "fingerprint")}
    tokenizer = TEXT_TOKENIZERS[facts["name"]](**sizes)
    if tokenizer.fingerprint != facts["fingerprint"]:
        raise ValueError(
            f"The checkpoint was trained with the text tokenizer {facts['fingerprint'][:12]}, this"
            f" Poet has {tokenizer.fingerprint[:12]}; use the version of Poet that trained it"
            f" ({meta.get('poet_version')})."
        )
    return tokenizer


def check_limits(config: PrefixLMConfig, clip: ClipShape, sound: SoundShape | None) -> None:
    """ValueError unless the model has learned positions for the whole clip."""
    frames, rows, columns = clip.grid
    asked = {"latent_frames": frames, "token_rows": rows, "token_columns": columns}
    if sound:
        asked["audio_frames"] = sound.num_audio_frames
        asked["audio_levels"] = sound.num_levels
    for name, count in asked.items():
        limit = getattr(config.limits, name)
        if count > limit:
            raise ValueError(
                f"The clips have {count} {name.replace('_', ' ')}, the model has positions for"
                f" {limit}; set GridLimits.{name} = {count} or prepare smaller clips."
            )


# What may not change while a run goes on: name in the facts -> what it is called.
_FIXED = {
    "vocabulary": "the id table",
    "tokenizers": "the tokenizers' fingerprints",
    "text_tokenizer": "the text tokenizer",
    "dataset_fingerprint": "the dataset",
    "model": "the model",
    "text_is_frozen": "whether the text encoder is frozen",
    "schedule": "the order of visual tokens",
    "tasks": "the tasks and their shares",
    "batch": "the batches (tokens a step, seed, text dropout, curriculum)",
    "adapters": "the adapters",
}


# Of runs by a Poet that did not have these.
_OLDER = {
    "text_is_frozen": False,
    "schedule": to_json(RASTER),
    "init_from": None,
    "adapters": None,
}


def check_same_run(model_dir: epath.PathLike, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of the run that goes on in MODEL_DIR, {} for a fresh one.

    Raises:
      ValueError: when that run has other data, another model or another order of tokens.
    """
    try:
        before = checkpoint.read_meta(model_dir)
    except ValueError:
        return {}  # No step, or none that can be read: then the loop refuses to begin anew.
    if before.get("kind") != facts["kind"]:
        raise ValueError(
            f"{model_dir} holds a checkpoint of {before.get('kind')!r}, not of a"
            f" {facts['kind']!r}; choose another MODEL_DIR."
        )
    # A field of the model that Poet did not have then counts as its default.
    before = _OLDER | before | {"model": to_json(model_from_meta(before))}
    for name, words in _FIXED.items():
        if before.get(name) != facts[name]:
            raise ValueError(
                f"MODEL_DIR {model_dir} holds step {before['step']} of a run that differs in"
                f" {words}: {_difference(before.get(name), facts[name])}. Use the same settings and"
                " data to continue it, or another MODEL_DIR to start anew."
            )
    return before


def _difference(before: Any, now: Any) -> str:
    name, was, is_now = first_difference(before, now)
    return f"{name + ' ' if name else ''}was {was}, is now {is_now}"


def _agd(run: LMRun, mesh: Any, batch_sizes: Mapping[str, int] | None) -> AgdConfig:
    return AgdConfig(
        batch_tokens=run.batch_tokens,
        seed=run.loop.seed,
        split=run.train_split,
        data_parallel_size=partitioning.batch_ways(mesh) * run.updates.num_micro_batches,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        text_dropout=run.text_dropout,
        curriculum=run.curriculum,
        on_bad_record=run.on_bad_record,
        on_unserved_task=run.on_unserved_task,
        batch_sizes=batch_sizes,
    )


def _facts(
    run: LMRun, dataset: Dataset, sizes: SequenceSizes, config: PrefixLMConfig
) -> dict[str, Any]:
    """What is saved with every checkpoint, as JSON."""
    tasks = registry.resolve(run.mixture_or_task_name, run.task_weights)
    known = registry.resolve(run.known_tasks) if run.known_tasks else []
    batch = {
        "batch_tokens": run.batch_tokens,
        "seed": run.loop.seed,
        "text_dropout": run.text_dropout,
        "curriculum": to_json(run.curriculum),
    }
    return {
        "kind": lora.KIND if run.adapters else KIND,
        "poet_version": poet.__version__,
        "model": to_json(config),
        "vocabulary": sizes.vocabulary.to_dict(),
        "vocabulary_fingerprint": sizes.vocabulary.fingerprint,
        "tokenizers": dict(dataset.fingerprints),
        "text_tokenizer": {
            "name": type(run.text_tokenizer).__name__,
            "fingerprint": run.text_tokenizer.fingerprint,
            **run.text_tokenizer.sizes,
        },
        "clip": to_json(sizes.clip),
        "sound": to_json(sizes.sound),
        "text_slots": sizes.text_slots,
        "text_is_frozen": run.text_is_frozen,
        "schedule": to_json(run.schedule),
        "adapters": to_json(run.adapters),
        "data_dir": str(run.data_dir),
        "dataset_fingerprint": dataset.fingerprint,
        "tasks": {entry.name: share for entry, share in tasks},
        "task_values": {entry.task.name: to_json(entry.task) for entry, _ in [*tasks, *known]},
        "batch": batch,
        "num_steps": run.loop.num_steps,
    }


def _of_all_hosts(run: LMRun, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What has to be the same on every host: all settings, the data and the task files.

    The dataset may lie elsewhere on another host, for what is in it is compared. Other folders may
    not: all hosts write to one MODEL_DIR and begin with the weights of one.
    """
    names = {field.name for field in dataclasses.fields(run)} - {"data_dir", "task_modules"}
    settings = {name: getattr(run, name) for name in names}
    found = {name: fact for name, fact in facts.items() if name != "data_dir"}
    modules = agreement.files_fingerprints(run.task_modules)
    return settings | {"data and tasks": found, "task files": modules}


def _clips(batches: AgdBatches) -> list[dict[str, Any]]:
    """Sizes of clips that are trained on, each once, most frequent first, as JSON."""
    found = {group.plan.clip: None for group in batches.groups.values()}
    return [to_json(clip) for clip in found]

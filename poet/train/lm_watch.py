"""What is known of a language model's run beside its losses: work, rate, samples."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from etils import epath
from jax.sharding import Mesh

from poet.data.batches import AgdBatches
from poet.data.groups import Group
from poet.models import flops
from poet.models.config import PrefixLMConfig
from poet.tokens.schedule import Schedule
from poet.train import chips
from poet.train.loop import Program
from poet.train.optimizer import rate_at
from poet.train.pace import Work
from poet.train.state import TrainState

# (parameters of the model, steps done) -> {name: number, or picture as of `loop.Program`}.
Look = Callable[[Any, int], Mapping[str, Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class KnownRun:
    """What is known of a run before its first step; a sampler is told of it.

    Attributes:
      model: Sizes of the model.
      batches: The run's data, which know the held-out examples too.
      splits: That are not trained on, first the one to look at; there may be none.
      train_split: That is.
      text_tokenizer: Captions to ids.
      tokenizers: Modality -> fingerprint of what made the data's ids.
      schedule: Order of visual tokens.
      mesh: Of the parameters.
      model_dir: Where the run writes.
    """

    model: PrefixLMConfig
    batches: AgdBatches
    splits: tuple[str, ...]
    train_split: str
    text_tokenizer: Any
    tokenizers: Mapping[str, str]
    schedule: Schedule
    mesh: Mesh
    model_dir: epath.PathLike


@runtime_checkable
class Sampler(Protocol):
    """Decodes while a model trains, such as `poet.sample.watching.FixedPrompts`."""

    def start(self, run: KnownRun) -> Look:
        """What looks at the parameters; ValueError where it cannot look at this run."""
        ...


def watched(
    program: Program, run: Any, known: KnownRun, whole_params: Callable[[Any], Any]
) -> Program:
    """The program with work, learning rate, names of tasks and, at a sample_period, samples.

    Args:
      program: As it trains.
      run: The `LMRun`.
      known: What it found.
      whole_params: Parameters that train -> those of the model (`LMPrograms.whole_params`).

    Raises:
      ValueError: The best checkpoint is to be chosen by a loss that is not measured, or the sampler
        cannot look at this run.
    """
    _check_best_of(run, known.splits)
    sample = None
    if run.loop.sample_period:
        sample = _sample(run.sampler.start(known), whole_params)
    return dataclasses.replace(
        program,
        task_at=known.batches.task_at,
        work=_work(run, known),
        rate=rate_at(run.optimizer, run.loop.num_steps),
        sample=sample,
    )


def _check_best_of(run: Any, splits: tuple[str, ...]) -> None:
    """ValueError for a loss that no evaluation of the run will give, before the first step."""
    wanted = run.loop.best_of
    if not wanted:
        return
    measures = ["loss_nats", *(["loss_nats_ema"] if run.updates.ema_decay else [])]
    splits = splits if run.evaluation.num_examples else ()
    given = [f"{measure}/{split}" for measure in measures for split in splits]
    if not any(f"{wanted}/".startswith(f"{name}/") for name in given):
        raise ValueError(
            f"best_of={wanted!r} is nothing that this run evaluates; expected one of"
            f" {', '.join(given) or 'none, since nothing is held out'}, or such a name with /TASK."
        )


def _sample(look: Look, whole_params: Callable[[Any], Any]) -> Callable[[TrainState, int], Any]:
    """(state, steps done) -> what a look finds, at the averaged parameters where there are some."""

    def sample(state: TrainState, step: int) -> Mapping[str, Any]:
        params = state.params | state.ema if state.ema else state.params
        return look(whole_params(params), step)

    return sample


def _work(run: Any, known: KnownRun) -> Work:
    devices, groups = list(known.mesh.devices.flat), known.batches.groups

    def step_flops(group: Group) -> float:
        has_adapters = run.adapters is not None
        size = group.batch_size
        return flops.step_flops(known.model, group.plan, size, run.text_is_frozen, has_adapters)

    return Work(
        tokens={name: group.tokens_per_step for name, group in groups.items()},
        flops={name: step_flops(group) for name, group in groups.items()},
        peak_flops=1e12 * run.peak_tflops * len(devices) or chips.peak_flops(devices),
    )

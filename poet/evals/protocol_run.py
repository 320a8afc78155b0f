"""Runs a protocol: plans it whole, makes the clips that are missing, measures them."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from poet.data import structure
from poet.evals import folders, measuring, metrics, plugins, protocol_files, resampling, results
from poet.evals.checkpoint_evaluation import CheckpointEvaluation
from poet.evals.measuring import Work
from poet.evals.metric import Metric
from poet.evals.protocol import Measure, Protocol
from poet.evals.protocol_files import Brought
from poet.evals.reading import Reading
from poet.evals.resampling import Statistics
from poet.media.manifest import ManifestRow
from poet.sample import inputs, jobs, names
from poet.sample.asks import Job
from poet.sample.engine import Engine
from poet.tokens.clip import ClipShape
from poet.tokens.tasks import Task
from poet.train.progress import Progress

_GENERATED, _PARTS = "generated", "parts"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Planned:
    """Everything that a protocol will do.

    Attributes:
      protocol: What was asked for.
      brought: Its requests and real clips.
      job: How requests are answered.
      estimator: Of flow and depth, for stylization.
      works: Each measure with what is measured and how it is summed up.
    """

    protocol: Protocol
    brought: Brought
    job: Job
    estimator: Any
    works: tuple[tuple[Measure, Work, Statistics], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checked:
    """What of a protocol can be known without the model.

    Attributes:
      chain: The tasks that answer a request, one after the other.
      brought: Requests and real clips.
      metrics: Of each measure, by its name.
    """

    chain: tuple[Task, ...]
    brought: Brought
    metrics: Mapping[str, list[Metric]]


def check(
    protocol: Protocol, evaluation: CheckpointEvaluation, trained: Mapping[str, Task]
) -> Checked:
    """Looks for everything that a protocol needs, before a model is loaded.

    Args:
      protocol: One of the evaluation's.
      evaluation: For weights and seed.
      trained: Name -> task that the checkpoint was trained for.

    Raises:
      ValueError: Naming what is missing.
    """
    has_words = protocol.source != "clips" or protocol.uses_captions
    try:
        found = [names.resolve(protocol.task, trained, has_text=has_words)]
        found += [names.resolve(word, trained) for word in protocol.then]
    except ValueError as error:
        raise ValueError(f"Protocol {protocol.name!r}: {error}") from error
    chain = tuple(trained[name] for name in found)
    _check_chain(protocol, chain)
    brought = protocol_files.bring(protocol, chain[0], evaluation.seed)
    inputs.check(chain[0], brought.asks[0])
    weights = {kind: Path(path) for kind, path in evaluation.weights.items()}
    batch_size = evaluation.metric_batch_size
    mine = plugins.load(evaluation.plugins, weights, batch_size)
    chosen = {
        measure.name: metrics.choose(measure.metrics, weights, batch_size, mine)
        for measure in protocol.measures
    }
    is_heard = any(part.kind == "audio" for task in chain for part in task.inputs + task.outputs)
    for measure in protocol.measures:
        heard = [m.name for m in chosen[measure.name] if m.source.needs.sample_rates_hz]
        if heard and not is_heard:
            raise ValueError(
                f"{heard[0]} of protocol {protocol.name!r} listens, and {chain[0].name} makes no"
                " sound; let video_to_audio follow (THEN), or leave the metric out (METRICS)."
            )
    return Checked(chain=chain, brought=brought, metrics=chosen)


def _check_chain(protocol: Protocol, chain: tuple[Task, ...]) -> None:
    visual = [part for task in chain for part in task.outputs if part.kind == "visual"]
    if not visual and not any(part.kind == "visual" for part in chain[0].inputs):
        raise ValueError(f"Protocol {protocol.name!r} scores clips, {chain[0].name} makes none.")
    if visual and visual[-1].stop == 1:
        raise ValueError(
            f"Protocol {protocol.name!r} scores clips, {chain[0].name} makes pictures."
        )
    depth = protocol.depth_model
    if depth and not (Path(depth) / "config.json").is_file():
        raise ValueError(
            f"Protocol {protocol.name!r} needs the depth model {depth}, which has no config.json;"
            " give the folder of a depth model of transformers, or none (DEPTH_MODEL='')."
        )


def plan(
    protocol: Protocol, evaluation: CheckpointEvaluation, checked: Checked, engine: Engine
) -> Planned:
    """All of a protocol's work, refused here where its counts or sizes do not fit.

    Args:
      protocol: One of the evaluation's.
      evaluation: For sampling and folders.
      checked: From `check`.
      engine: The model.

    Raises:
      ValueError: Clips of the model are too short, counts do not fit, a metric is not allowed.
    """
    if engine.clip.num_frames < protocol.num_frames:
        raise ValueError(
            f"Protocol {protocol.name!r} scores {protocol.num_frames} frames, but the model makes"
            f" clips of {engine.clip.num_frames}; ask for fewer (NUM_FRAMES)."
        )
    out = Path(evaluation.out) / protocol.name
    task, *then = checked.chain
    sampling = evaluation.sampling
    if not task.has_text:  # Nothing to lead towards.
        sampling = dataclasses.replace(sampling, guidance=1.0)
    job = Job(
        task=task.name,
        then=tuple(follower.name for follower in then),
        sampling=sampling,
        then_temperature=evaluation.then_temperature,
        out=out / _GENERATED,
        # The folder is claimed: what a killed run left half, or another request made, is replaced.
        overwrite=True,
        records_failures=True,
        has_table=False,
        batch_size=evaluation.batch_size,
    )
    asks = checked.brought.asks
    is_rendered = all("start_x" in ask.facts for ask in asks)
    estimator: Any = structure.EstimatedStructure(protocol.depth_model)
    if is_rendered:
        estimator = structure.ExactStructure()
    jobs.check(engine, job, asks)
    for ask in asks:
        jobs.check_ask(engine, job, ask)
    works = tuple(
        (measure, *_work(protocol, measure, evaluation, checked, job, engine.clip))
        for measure in protocol.measures
    )
    return Planned(
        protocol=protocol, brought=checked.brought, job=job, estimator=estimator, works=works
    )


def _work(
    protocol: Protocol,
    measure: Measure,
    evaluation: CheckpointEvaluation,
    checked: Checked,
    job: Job,
    clip: ClipShape,
) -> tuple[Work, Statistics]:
    brought = checked.brought
    asks = brought.asks[: measure.num_generated or None]
    made = {}
    for ask in asks:
        clip_name = ask.name.partition("_")[2] if protocol.num_samples > 1 else ask.name
        words = ask.prompt
        if not words and clip_name in brought.clips:
            words = brought.clips[clip_name].caption
        path = job.out / f"{ask.name}.{job.format}"
        made[ask.name] = ManifestRow(path=path, clip_id=ask.name, caption=words)
    if measure.num_real is None:
        truth = dict(brought.clips)
    else:
        truth = protocol_files.draw_real(brought, measure.num_real, evaluation.seed)
    work = Work(
        folders=folders.pair_rows(truth, made),
        metrics=tuple(checked.metrics[measure.name]),
        real=_real_reading(protocol, clip),
        generated=_generated_reading(protocol, clip),
        parts=job.out.with_name(_PARTS),
        batch_size=evaluation.metric_batch_size,
    )
    statistics = Statistics(
        repeats=measure.repeats, seed=evaluation.seed, is_in_order=protocol.num_samples > 1
    )
    counts = work.folders.real, work.folders.generated
    resampling.check_counts(work.metrics, *counts, statistics)
    return work, statistics


def _real_reading(protocol: Protocol, clip: ClipShape) -> Reading:
    return Reading(
        num_frames=protocol.num_frames,
        height_px=protocol.size_px or clip.height_px,
        width_px=protocol.size_px or clip.width_px,
        frames_per_second=protocol.real_frames_per_second,
        is_central=protocol.real_is_central,
    )


def _generated_reading(protocol: Protocol, clip: ClipShape) -> Reading:
    """The model's pixels, then enlarged: files of small clips are enlarged by whole pixels."""
    side = min(clip.height_px, clip.width_px)
    return Reading(
        num_frames=protocol.num_frames,
        height_px=protocol.size_px or clip.height_px,
        width_px=protocol.size_px or clip.width_px,
        frames_per_second=clip.frames_per_second,
        via_px=side if protocol.size_px not in (0, side) else 0,
    )


def generate(planned: Planned, engine: Engine, shard: int, num_shards: int) -> None:
    """Answers every `num_shards`-th request from `shard` on that has no files yet.

    Raises:
      ValueError: Requests failed; their rows say why, and the next run tries them again.
    """
    mine = planned.brought.asks[shard::num_shards]
    todo = jobs.unanswered(engine, planned.job, mine, planned.estimator)
    if not todo:
        return
    name, done = f"generate {planned.protocol.name}", len(mine) - len(todo)
    with Progress(name, len(mine), done, unit="requests") as progress:

        def say(count: int) -> None:
            progress.update(done + count)

        rows = jobs.run(engine, planned.job, todo, say, planned.estimator)
    failed = [row for row in rows if "error" in row]
    if failed:
        raise ValueError(
            f"{len(failed)} of {len(rows)} requests of {planned.protocol.name} failed, the first"
            f" {failed[0]['name']}: {failed[0]['error']} Mend or remove its clip and start again."
        )


def unanswered(planned: Planned, engine: Engine) -> int:
    """How many requests have no files, whoever makes them."""
    asks = planned.brought.asks
    return len(jobs.unanswered(engine, planned.job, asks, planned.estimator))


def measure(planned: Planned, shard: int, num_shards: int) -> None:
    """Measures this shard's parts, then those that no other host has measured meanwhile."""
    for each, work, _ in planned.works:
        name = f"measure {planned.protocol.name}/{each.name}"
        total = measuring.num_items(work, 0, 1)
        with Progress(name, total, unit="names") as progress:
            if num_shards > 1:
                measuring.measure(work, shard, num_shards, progress.update)
            measuring.measure(work, progress=progress.update)


def sum_up(planned: Planned, about: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Writes OUT/PROTOCOL/MEASURE/result.json of every measure; returns their facts by name.

    Args:
      planned: Whose clips are measured.
      about: What every result says of the checkpoint and of how it was asked.
    """
    out, found = planned.job.out.parent, {}
    for each, work, statistics in planned.works:
        asked = {"protocol": planned.protocol.facts | {"measure": each.name}, **about}
        measured = measuring.collect(work)
        found[each.name] = results.write(out / each.name, work, measured, statistics, asked)
    return found

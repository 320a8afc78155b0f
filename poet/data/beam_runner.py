"""Runs the units of `prepare` as an Apache Beam pipeline: here, in processes, or on a cluster.

    beam                          in this process, for tests of the pipeline itself
    multi_processing              several processes of this machine
    FlinkRunner, DataflowRunner   any runner that Beam knows, with its own options passed through

Workers elsewhere load the tokenizers from their folder and write part files, so that both folders
must lie where all of them reach: a shared file system or an object store.
"""

import contextlib
import dataclasses
import functools
import pickle
from collections.abc import Callable

from etils import epath

from poet.data import units
from poet.media.errors import MediaError

IN_PROCESS, PROCESSES = "beam", "multi_processing"

# Beam pickles what it maps; the in-process runner's workers find tokenizers and counter here.
_runs: dict[str, tuple[units.UnitWorker, Callable[[int], None]]] = {}
_failures: dict[str, list[tuple[int, Exception]]] = {}


def run_units(
    worker: units.UnitWorker,
    plan: list[units.Unit],
    on_piece: Callable[[int], None],
    runner: str = IN_PROCESS,
    options: tuple[str, ...] = (),
    tokenizers_dir: str = "",
) -> None:
    """Maps the units to their part files; the same records as without Beam.

    Args:
      worker: computes units.
      plan: all units; those with a part file are skipped.
      on_piece: told of finished pieces; for workers elsewhere once, at the end.
      runner: see above.
      options: Beam's own, such as "--flink_master=host:8081" or "--direct_num_workers=8".
      tokenizers_dir: folder with visual/ and audio/ that workers elsewhere load; "" sends them the
        tokenizers themselves.

    Raises ValueError where Beam is not installed, and what the first failing unit raised.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
        from apache_beam.runners.portability import fn_api_runner
    except ImportError as error:
        raise ValueError(
            f"runner={runner!r} needs Apache Beam, which is not installed (it has no wheels for "
            "some Python versions); use runner='local', which gives the same records."
        ) from error
    if runner == IN_PROCESS:
        # Not DirectRunner: Beam 2.77 tries to download another runner before it falls back.
        with _registered(worker, on_piece) as name:
            with beam.Pipeline(runner=fn_api_runner.FnApiRunner()) as pipeline:
                named = pipeline | beam.Create([(name, unit) for unit in plan])
                _ = named | beam.Reshuffle() | beam.Map(_run_unit)
        return
    flags = list(options)
    if runner == PROCESSES:
        flags += ["--direct_running_mode=multi_processing"]
        if not any(flag.startswith("--direct_num_workers") for flag in flags):
            flags += [f"--direct_num_workers={max(1, worker.num_workers)}"]
        made = fn_api_runner.FnApiRunner()
    else:
        flags, made = [f"--runner={runner}", *flags], None
    for unit in plan:  # what an earlier run left
        _failure(worker.parts_dir, unit).unlink(missing_ok=True)
    jobs = [_job(worker, unit, tokenizers_dir) for unit in plan]
    with beam.Pipeline(runner=made, options=PipelineOptions(flags)) as pipeline:
        _ = pipeline | beam.Create(jobs) | beam.Reshuffle() | beam.Map(_run_elsewhere)
    _raise_failures(worker.parts_dir, plan)
    on_piece(sum(len(unit.pieces) for unit in plan))


@contextlib.contextmanager
def _registered(worker: units.UnitWorker, on_piece: Callable[[int], None]):
    name = str(worker.parts_dir)
    _runs[name], _failures[name] = (worker, on_piece), []
    try:
        yield name
        if _failures[name]:
            raise min(_failures[name], key=lambda failure: failure[0])[1]
    finally:
        del _runs[name], _failures[name]


def _run_unit(named_unit: tuple[str, units.Unit]) -> None:
    """Computes one unit; failures are kept, since Beam would wrap them in a page of its own."""
    name, unit = named_unit
    worker, on_piece = _runs[name]
    try:
        worker.run(unit, on_piece)
    except Exception as error:
        _failures[name].append((unit.number, error))


def _job(worker: units.UnitWorker, unit: units.Unit, tokenizers_dir: str) -> bytes:
    """A unit with the rows it needs and what every worker needs, pickled."""
    rows = {piece.row_index: worker.rows[piece.row_index] for piece in unit.pieces}
    common = dataclasses.replace(worker, rows={})
    if tokenizers_dir:
        has_audio = worker.audio is not None
        common = dataclasses.replace(common, visual=None, audio=None)
        return pickle.dumps((pickle.dumps((common, tokenizers_dir, has_audio)), unit, rows))
    return pickle.dumps((pickle.dumps((common, "", None)), unit, rows))


@functools.lru_cache(maxsize=1)
def _common(pickled: bytes) -> units.UnitWorker:
    """The worker without rows, its tokenizers loaded; once a process."""
    worker, tokenizers_dir, has_audio = pickle.loads(pickled)
    if not tokenizers_dir:
        return worker
    from poet.tokenizers import protocol

    folder = epath.Path(tokenizers_dir)
    return dataclasses.replace(
        worker,
        visual=protocol.load(folder / "visual"),
        audio=protocol.load(folder / "audio") if has_audio else None,
    )


def _run_elsewhere(job: bytes) -> None:
    pickled, unit, rows = pickle.loads(job)
    worker = dataclasses.replace(_common(pickled), rows=rows)
    try:
        worker.run(unit)
    except (MediaError, ValueError) as error:
        # Found by the process that waits, which says it in one sentence.
        units.write_text(_failure(worker.parts_dir, unit), str(error))


def _failure(parts_dir: epath.Path, unit: units.Unit) -> epath.Path:
    return parts_dir / f"failed-{unit.number:05d}.txt"


def _raise_failures(parts_dir: epath.Path, plan: list[units.Unit]) -> None:
    for unit in plan:
        path = _failure(parts_dir, unit)
        if path.exists():
            raise MediaError(path.read_text())

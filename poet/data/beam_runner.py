"""Runs the units of `prepare` as an Apache Beam pipeline, in this process."""

from collections.abc import Callable

from poet.data import units

# Beam pickles what it maps; the in-process runner's workers find tokenizers and counter here.
_runs: dict[str, tuple[units.UnitWorker, Callable[[int], None]]] = {}
_failures: dict[str, list[tuple[int, Exception]]] = {}


def run_units(
    worker: units.UnitWorker, plan: list[units.Unit], on_piece: Callable[[int], None]
) -> None:
    """Maps the units to their part files; the same records as without Beam.

    Raises ValueError where Beam is not installed, and what the first failing unit raised.
    """
    try:
        import apache_beam as beam
        from apache_beam.runners.portability import fn_api_runner
    except ImportError as error:
        raise ValueError(
            "runner='beam' needs Apache Beam, which is not installed (it has no wheels for some "
            "Python versions); use runner='local', which gives the same records."
        ) from error
    name = str(worker.parts_dir)
    _runs[name], _failures[name] = (worker, on_piece), []
    try:
        # Not DirectRunner: Beam 2.77 tries to download another runner before it falls back.
        with beam.Pipeline(runner=fn_api_runner.FnApiRunner()) as pipeline:
            named = pipeline | beam.Create([(name, unit) for unit in plan])
            _ = named | beam.Reshuffle() | beam.Map(_run_unit)
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

"""Runs the units of `prepare` as an Apache Beam pipeline."""

from poet.data import units

# Beam pickles what it maps; workers of the in-process runner find the tokenizers here instead.
_beam_workers: dict[str, units.UnitWorker] = {}


def _run_on_beam(worker: units.UnitWorker, plan: list[units.Unit]) -> None:
    """Runs the units through Beam's in-process runner; each writes its part file."""
    try:
        import apache_beam as beam
        from apache_beam.runners.portability import fn_api_runner
    except ImportError as error:
        raise ValueError(
            "runner='beam' needs Apache Beam, which is not installed (it has no wheels for some "
            "Python versions); use runner='local', which gives the same records."
        ) from error
    name = str(worker.parts_dir)
    _beam_workers[name] = worker
    try:
        # Not DirectRunner: Beam 2.77 tries to download another runner before it falls back.
        with beam.Pipeline(runner=fn_api_runner.FnApiRunner()) as pipeline:
            numbered = pipeline | beam.Create([(name, unit) for unit in plan])
            _ = numbered | beam.Reshuffle() | beam.Map(_run_beam_unit)
    finally:
        del _beam_workers[name]


def _run_beam_unit(named_unit: tuple[str, units.Unit]) -> None:
    name, unit = named_unit
    _beam_workers[name].run(unit)



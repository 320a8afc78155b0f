"""What has to fit before a tokenizer is trained: an earlier run, the devices, the processes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from poet.train import checkpoint, partitioning


def check_same_run(model_dir: Path, facts: Mapping[str, Any]) -> None:
    """ValueError when a folder holds a checkpoint of a run with other settings or media."""
    try:
        before = checkpoint.read_meta(model_dir)
    except ValueError:
        return
    for name, words in (("kind", "kind"), ("settings", "settings"), ("media", "media files")):
        if before.get(name) != facts[name]:
            raise ValueError(
                f"{model_dir} holds step {before.get('step')} of a run with other {words};"
                " use the same to continue it, or another --out to start anew."
            )


def check_rows(batches: Mapping[str, jax.ShapeDtypeStruct], mesh: Mesh) -> None:
    """ValueError when the rows of some batch do not divide among the devices."""
    ways = partitioning.batch_ways(mesh)
    for group, batch in batches.items():
        if batch.shape[0] % ways:
            raise ValueError(
                f"The batches of {batch.shape[0]} rows ({group}) cannot be split over {ways}"
                f" devices; make them a multiple of {ways}, or set TokenizerRun.mesh to fewer."
            )


def check_processes(mesh: Mesh) -> None:
    """ValueError when a process of the job would have no device to train on."""
    busy = {device.process_index for device in mesh.devices.flat}
    idle = sorted(set(range(jax.process_count())) - busy)
    if idle:
        raise ValueError(
            f"The mesh of {mesh.size} devices has none of process {', '.join(map(str, idle))}; take"
            " fewer hosts, batches that divide among all devices, or another TokenizerRun.mesh."
        )

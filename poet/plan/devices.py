"""Devices of a described TPU slice, or of this machine, laid out as a mesh."""

import contextlib
import dataclasses
import importlib.util
import os
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental import topologies

from poet.plan.chips import HERE, Topology, parse_topology
from poet.train.chips import chip_of_kind
from poet.train.partitioning import MeshConfig

# Without these, libtpu looks for the machine of a TPU and prints that there is none.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    # Only one process may use a TPU, any number may describe one.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
# What libtpu calls a chip, where that differs.
_NAMES = {"v5p": "v5"}
EFFORTS = {"fast": -1.0, "full": 0.0}


def find(text: str) -> Topology:
    """The topology of a name; "here" stands for the devices of this machine."""
    if text != HERE:
        return parse_topology(text)
    devices = jax.devices()
    chip = chip_of_kind(devices[0].device_kind, devices[0].platform)
    return Topology(chip, (len(devices),), is_here=True)


def devices_of(topology: Topology) -> list[Any]:
    """The devices of a topology; a described slice needs libtpu, and no TPU.

    Raises:
      ValueError: without libtpu, or when it knows no such slice.
    """
    if topology.is_here:
        return list(jax.devices())
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            "Compiling for a TPU needs its compiler, which is not installed:"
            " `make setup EXTRAS=plan` brings libtpu (no TPU is needed)."
        )
    more: dict[str, Any] = {}
    if topology.chip.torus_dims == 3:
        # One device a chip, four chips a host, as these machines are built.
        sides = tuple(min(2, side) for side in topology.shape[:2]) + (1,)
        wraps = tuple(side % topology.chip.wraps_at == 0 for side in topology.shape)
        more = {"chip_config_name": "megacore", "chips_per_host_bounds": sides, "wrap": wraps}
    if topology.num_slices > 1:
        more["num_slices"] = topology.num_slices
    sides = "x".join(map(str, topology.shape))
    name = f"{_NAMES.get(topology.chip.name, topology.chip.name)}:{sides}"
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=name, **more)
    except Exception as error:  # jax raises errors of several kinds here
        raise ValueError(
            f"libtpu does not describe {topology.name} ({str(error).splitlines()[0][:200]}); sides"
            " are usually powers of two, and a host has four chips."
        ) from error
    return list(found.devices)


def over_slices(mesh: MeshConfig, topology: Topology) -> tuple[MeshConfig, tuple[str, ...]]:
    """(the mesh, what to say of it): where it has one copy of the state, several slices get one
    each, because `partitioning.lay_out` splits nothing but a batch over them."""
    count = topology.num_slices
    if count == 1 or mesh.replica != 1:
        return mesh, ()
    said = (
        f"Each of the {count} slices of {topology.name} was given a copy of the state, replica ="
        f" {count}, where the run has 1. A tokenizer without a mesh does so by itself; to train"
        f" another run there, add --gin.partitioning.MeshConfig.replica={count}."
    )
    return dataclasses.replace(mesh, replica=count), (said,)


@contextlib.contextmanager
def compile_with(effort: str) -> Iterator[None]:
    """Sets how hard XLA tries: "fast" compiles in a tenth of the time, "full" as a run would.

    Fast programs keep less on the chip, so they move and hold more; what they compute and exchange
    is the same (docs/scale.md).
    """
    names = ("jax_exec_time_optimization_effort", "jax_memory_fitting_effort")
    before = {name: getattr(jax.config, name) for name in names}
    try:
        for name in names:
            jax.config.update(name, EFFORTS[effort])
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)

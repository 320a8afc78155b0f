"""Refuses long work on the CPU of a machine whose accelerator jax cannot use."""

import glob
import importlib.util
import os

from poet.main import commands

# Device files -> what they are, and the extra of setup.py that brings jax's support for it.
_NVIDIA = ("/dev/nvidia[0-9]*", "an NVIDIA GPU", "cuda")
_TPU = ("/dev/accel[0-9]*", "a TPU", "tpu")
# Newer TPU machines; other devices are there too, so that it takes libtpu to tell.
_TPU_BY_VFIO = ("/dev/vfio/[0-9]*", "a TPU", "tpu")


def check_accelerator() -> None:
    """UserError where a GPU or TPU is there and jax would train on the CPU all the same.

    JAX_PLATFORMS=cpu says that this is wanted.
    """
    import jax

    if "cpu" in os.environ.get("JAX_PLATFORMS", "") or jax.default_backend() != "cpu":
        return
    kinds = [_NVIDIA, _TPU]
    if importlib.util.find_spec("libtpu"):
        kinds.append(_TPU_BY_VFIO)
    for pattern, name, extra in kinds:
        if found := sorted(glob.glob(pattern)):
            raise commands.UserError(
                f"This machine has {name} ({found[0]}), but jax {jax.__version__} only sees the"
                f" CPU; install its support (`make setup EXTRAS={extra}`) and check the driver, or"
                " set JAX_PLATFORMS=cpu to train on the CPU."
            )

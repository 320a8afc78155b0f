"""A machine with an accelerator that jax does not see."""

import jax
import pytest

from poet.main import commands, devices


@pytest.fixture
def machine(monkeypatch):
    """(device files, backend) -> a machine that has these."""

    def make(files, backend="cpu"):
        monkeypatch.delenv("JAX_PLATFORMS", raising=False)
        monkeypatch.setattr(jax, "default_backend", lambda: backend)
        monkeypatch.setattr(
            devices.glob, "glob", lambda pattern: [f for f in files if f[:9] == pattern[:9]]
        )
        monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: None)

    return make


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (["/dev/nvidia0"], r"has an NVIDIA GPU \(/dev/nvidia0\), but jax .* only sees the CPU"),
        (["/dev/accel1", "/dev/accel0"], r"has a TPU \(/dev/accel0\).*make setup EXTRAS=tpu"),
    ],
)
def test_an_accelerator_that_jax_does_not_see_is_named(machine, files, says):
    machine(files)
    with pytest.raises(commands.UserError, match=says):
        devices.check_accelerator()


def test_whoever_asks_for_the_cpu_gets_it(machine, monkeypatch):
    machine(["/dev/nvidia0"])
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    devices.check_accelerator()


def test_a_plain_machine_and_a_working_accelerator_train(machine, monkeypatch):
    machine(["/dev/vfio/12"])
    devices.check_accelerator()
    machine(["/dev/nvidia0"], backend="gpu")
    devices.check_accelerator()
    machine(["/dev/vfio/12"])
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: name)
    with pytest.raises(commands.UserError, match="has a TPU"):
        devices.check_accelerator()

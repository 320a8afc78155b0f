"""The table of chips."""

import types

import pytest

from poet.train import chips
from poet.train.chips import CHIPS


def test_every_chip_has_its_facts_and_a_source():
    for chip in CHIPS.values():
        assert chip.source and chip.hbm_bytes > 2**30
        assert chip.bf16_flops > chip.hbm_bytes_per_s > chip.link_bytes_per_s >= 0
    # FLOPs a byte of memory: the number that people know these chips by.
    assert CHIPS["v5e"].bf16_flops / CHIPS["v5e"].hbm_bytes_per_s == pytest.approx(240, rel=0.01)


@pytest.mark.parametrize(
    ("kind", "platform", "name"),
    [
        ("TPU v5 lite", "tpu", "v5e"),
        ("TPU v5", "tpu", "v5p"),
        ("TPU v6 lite", "tpu", "v6e"),
        ("NVIDIA H200", "gpu", "h200"),
        ("cpu", "cpu", "cpu"),
    ],
)
def test_devices_are_recognised(kind, platform, name):
    assert chips.chip_of_kind(kind, platform).name == name


def test_an_unknown_device_is_refused():
    with pytest.raises(ValueError, match="No facts are known of the device 'Abacus'"):
        chips.chip_of_kind("Abacus", "gpu")


def test_the_peak_is_that_of_all_devices_and_unknown_of_processors_and_others():
    v5e = types.SimpleNamespace(device_kind="TPU v5 lite", platform="tpu")
    assert chips.peak_flops([v5e] * 16) == 16 * 197e12
    for kind, platform in (("cpu", "cpu"), ("Abacus", "gpu")):
        device = types.SimpleNamespace(device_kind=kind, platform=platform)
        assert chips.peak_flops([device]) == 0

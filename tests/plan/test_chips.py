"""The table of chips and the names of slices."""

import pytest

from poet.plan import chips
from poet.plan.chips import CHIPS, parse_topology


def test_a_name_is_chip_sides_and_slices():
    found = parse_topology("v6e:16x16@2")
    assert found.chip is CHIPS["v6e"] and found.shape == (16, 16) and found.num_slices == 2
    assert (found.chips_per_slice, found.num_chips, found.name) == (256, 512, "v6e:16x16@2")
    assert parse_topology("v5:4x4x8").chip.name == "v5p"


def test_the_shortest_side_grows():
    assert parse_topology("v5p:4x4x8").larger().name == "v5p:4x8x8"
    assert parse_topology("v5e:4x8@2").larger().name == "v5e:8x8@2"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("v5e-16", "write CHIP:SIDExSIDE"),
        ("v9:4x4", "Chip 'v9' of topology 'v9:4x4' is unknown; the table has v4, v5e, v5p, v6e"),
        ("v5p:8x8", "has 2 sides; slices of v5p have 3"),
        ("v5e:4x0", "each 1 or more"),
        ("h200:2x2", "is unknown"),
    ],
)
def test_wrong_names_are_refused(name, words):
    with pytest.raises(ValueError, match=words):
        parse_topology(name)


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

"""Names of slices."""

import pytest

from poet.plan import devices
from poet.plan.chips import parse_topology
from poet.train.chips import CHIPS
from poet.train.partitioning import MeshConfig


def test_a_name_is_chip_sides_and_slices():
    found = parse_topology("v6e:16x16@2")
    assert found.chip is CHIPS["v6e"] and found.shape == (16, 16) and found.num_slices == 2
    assert (found.chips_per_slice, found.num_chips, found.name) == (256, 512, "v6e:16x16@2")
    assert parse_topology("v5:4x4x8").chip.name == "v5p"


def test_the_shortest_side_grows():
    assert parse_topology("v5p:4x4x8").larger().name == "v5p:4x8x8"
    assert parse_topology("v5e:4x8@2").larger().name == "v5e:8x8@2"
    assert parse_topology("v5e:16x16").larger() is None
    assert parse_topology("v5p:16x16x16").larger() is None


def test_copies_of_the_state_are_as_few_as_let_gradients_be_scattered():
    found = {
        name: parse_topology(name).scattering_copies
        for name in ("v5p:4x4x4", "v5p:8x8x4", "v5e:4x4", "v5e:16x16", "v6e:16x16", "v6e:2x2")
    }
    # Groups of 32, 32, 8, 64, 128 and 2 chips: no more than was seen, and less than a slice.
    assert list(found.values()) == [2, 8, 2, 4, 2, 2]
    assert parse_topology("v6e:16x16@4").scattering_copies == 2, "of each slice"


def test_each_slice_gets_a_copy_of_the_state_unless_copies_were_asked_for():
    found, (said,) = devices.over_slices(MeshConfig(tensor=4), parse_topology("v6e:16x16@4"))
    assert found == MeshConfig(replica=4, tensor=4)
    assert "replica = 4, where the run has 1" in said and "MeshConfig.replica=4." in said
    for mesh, name in ((MeshConfig(), "v6e:16x16"), (MeshConfig(replica=8), "v6e:16x16@4")):
        assert devices.over_slices(mesh, parse_topology(name)) == (mesh, ())


def test_slices_of_closed_rings_are_described_without_them():
    assert parse_topology("v5p:4x4x4@2").loses_rings
    for name in ("v5p:4x4x4", "v5p:2x4x4@2", "v5e:16x16@2"):
        assert not parse_topology(name).loses_rings


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("v5e-16", "write CHIP:SIDExSIDE"),
        ("v9:4x4", "Chip 'v9' of topology 'v9:4x4' is unknown; the table has v4, v5e, v5p, v6e"),
        ("v5p:8x8", "has 2 sides; slices of v5p have 3"),
        ("v5e:4x0", "each 1 or more"),
        ("v5e:16x32", "No slice of v5e is as large .* the largest is v5e:16x16.* v5e:16x16@2"),
        ("h200:2x2", "is unknown"),
    ],
)
def test_wrong_names_are_refused(name, words):
    with pytest.raises(ValueError, match=words):
        parse_topology(name)

"""Facts of chips in one table, for predictions (`poet plan`) and for the MFU of a run.

Sources: [A] the system architecture pages of Google's Cloud TPU documentation (v4, v5e, v5p, v6e,
TPU7x); [B] "How to scale your model" (Google DeepMind, 2025), part 2: bandwidth of one link in one
direction as measured, and of the data-centre network a chip; [C] the limit that TPU's compiler
states when a program does not fit ("exceeds available HBM"), libtpu 0.0.42; [D] NVIDIA's data
sheets of H100 and H200 (SXM), dense bf16.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

GIB = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """One device as JAX counts them.

    Attributes:
      name: As in a topology's name.
      hbm_bytes: What a program may use.
      bf16_flops: Peak a second, dense.
      hbm_bytes_per_s: Bandwidth of the memory.
      link_bytes_per_s: One link to a neighbour, one direction; 0 where chips have no links.
      torus_dims: Dimensions of the network of a slice.
      largest: Sides of the largest slice; () where chips come in no slices.
      wraps_at: A side of a slice that is a multiple of this is closed to a ring.
      dcn_bytes_per_s: Share of a chip in the network between slices.
      scatters_over: Chips of the largest group, a part of a slice, over which TPU's compiler was
        seen to scatter (libtpu 0.0.42); over larger ones it sums, at twice the bytes.
      matrix_dim: Side of the matrix unit; narrower operands leave part of it idle.
      source: Where the numbers are from.
    """

    name: str
    hbm_bytes: float
    bf16_flops: float
    hbm_bytes_per_s: float
    link_bytes_per_s: float = 0.0
    torus_dims: int = 0
    largest: tuple[int, ...] = ()
    wraps_at: int = 1
    dcn_bytes_per_s: float = 0.0
    scatters_over: int = 0
    matrix_dim: int = 128
    source: str = ""


CHIPS = {
    chip.name: chip
    for chip in (
        Chip(
            name="v4",
            hbm_bytes=31.25 * GIB,
            bf16_flops=275e12,
            hbm_bytes_per_s=1.228e12,
            link_bytes_per_s=45e9,
            torus_dims=3,
            largest=(16, 16, 16),
            wraps_at=4,
            dcn_bytes_per_s=3.1e9,
            scatters_over=32,
            source="A, B; usable memory by analogy with C",
        ),
        Chip(
            name="v5e",
            hbm_bytes=15.75 * GIB,
            bf16_flops=197e12,
            hbm_bytes_per_s=0.819e12,
            link_bytes_per_s=45e9,
            torus_dims=2,
            largest=(16, 16),
            wraps_at=16,
            dcn_bytes_per_s=3.1e9,
            scatters_over=64,
            source="A, B, C",
        ),
        Chip(
            name="v5p",
            hbm_bytes=95.74 * GIB,
            bf16_flops=459e12,
            hbm_bytes_per_s=2.765e12,
            link_bytes_per_s=90e9,
            torus_dims=3,
            largest=(16, 16, 24),
            wraps_at=4,
            dcn_bytes_per_s=6.25e9,
            scatters_over=32,
            source="A, B, C",
        ),
        Chip(
            name="v6e",
            hbm_bytes=31.25 * GIB,
            bf16_flops=918e12,
            hbm_bytes_per_s=1.638e12,
            link_bytes_per_s=90e9,
            torus_dims=2,
            largest=(16, 16),
            wraps_at=16,
            dcn_bytes_per_s=12.5e9,
            scatters_over=128,
            matrix_dim=256,
            source="A, B, C",
        ),
        Chip(
            name="h100",
            hbm_bytes=79.6 * GIB,
            bf16_flops=989e12,
            hbm_bytes_per_s=3.35e12,
            link_bytes_per_s=450e9,
            torus_dims=1,
            dcn_bytes_per_s=50e9,
            matrix_dim=64,
            source="D; a switch counted as one ring",
        ),
        Chip(
            name="h200",
            hbm_bytes=139.8 * GIB,
            bf16_flops=989e12,
            hbm_bytes_per_s=4.8e12,
            link_bytes_per_s=450e9,
            torus_dims=1,
            dcn_bytes_per_s=50e9,
            matrix_dim=64,
            source="D; a switch counted as one ring",
        ),
        Chip(
            name="cpu",
            hbm_bytes=8 * GIB,
            bf16_flops=50e9,
            hbm_bytes_per_s=10e9,
            link_bytes_per_s=1e9,
            torus_dims=1,
            matrix_dim=8,
            source="a guess at one small core; for trying the command, not for believing it",
        ),
    )
}


def chip_of_kind(device_kind: str, platform: str) -> Chip:
    """The table's row for what JAX calls a device.

    Raises:
      ValueError: when the table has none.
    """
    kind = device_kind.lower().replace(" ", "")
    for word, name in (("h100", "h100"), ("h200", "h200"), ("v5lite", "v5e"), ("v5e", "v5e")):
        if word in kind:
            return CHIPS[name]
    for word, name in (("v6", "v6e"), ("v5", "v5p"), ("v4", "v4")):
        if word in kind:
            return CHIPS[name]
    if platform == "cpu":
        return CHIPS["cpu"]
    raise ValueError(
        f"No facts are known of the device {device_kind!r}; add a row to poet/train/chips.py."
    )


def peak_flops(devices: Sequence[Any]) -> float:
    """Dense bf16 FLOPs a second of all devices together; 0 where that is not known.

    Processors are as different as their makers: their row is a guess, and no peak.
    """
    first = devices[0]
    if first.platform == "cpu":
        return 0.0
    try:
        return chip_of_kind(first.device_kind, first.platform).bf16_flops * len(devices)
    except ValueError:
        return 0.0

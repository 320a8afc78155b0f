"""The slices that chips are sold in, by name."""

import dataclasses
import math
import re

from poet.train.chips import CHIPS, Chip

# Other names of the same chip.
_ALIASES = {"v5": "v5p", "v5litepod": "v5e", "v5lite": "v5e", "trillium": "v6e"}
HERE = "here"


@dataclasses.dataclass(frozen=True)
class Topology:
    """A slice, or several equal ones, of one kind of chip.

    Attributes:
      chip: What it is made of.
      shape: Chips along each side of a slice.
      num_slices: Equal slices, joined by the data-centre network.
      is_here: The devices of this machine instead of described ones.
    """

    chip: Chip
    shape: tuple[int, ...]
    num_slices: int = 1
    is_here: bool = False

    @property
    def chips_per_slice(self) -> int:
        """Chips that links join."""
        return math.prod(self.shape)

    @property
    def num_chips(self) -> int:
        """All chips."""
        return self.chips_per_slice * self.num_slices

    @property
    def name(self) -> str:
        """As a person writes it."""
        sides = "x".join(map(str, self.shape))
        slices = f"@{self.num_slices}" if self.num_slices > 1 else ""
        return HERE if self.is_here else f"{self.chip.name}:{sides}{slices}"

    @property
    def loses_rings(self) -> bool:
        """Whether libtpu seems to describe it without rings that its slices have.

        Seen with libtpu 0.0.42: the program for v5p:4x4x4@2 gathers as the one for v5p:4x4x4 does
        when that is described as open; slices of two dimensions, or with an open side, do not.
        """
        is_torus = len(self.shape) == 3 and all(s % self.chip.wraps_at == 0 for s in self.shape)
        return self.num_slices > 1 and is_torus

    @property
    def scattering_copies(self) -> int:
        """Copies of the state in a slice, the fewest that keep `fsdp` within `scatters_over`.

        The smallest slices scatter as a whole too; they are not told apart here.
        """
        sizes = [2**k for k in range(1, 13) if self.chips_per_slice % 2**k == 0]
        most = min(self.chip.scatters_over, self.chips_per_slice // 2)
        group = max((size for size in sizes if size <= most), default=self.chips_per_slice)
        return self.chips_per_slice // group

    def larger(self) -> "Topology | None":
        """Twice the chips: the shortest side doubled; None if no slice is so large."""
        sides = list(self.shape)
        at = sides.index(min(sides))
        sides[at] *= 2
        found = dataclasses.replace(self, shape=tuple(sorted(sides)))
        return found if found.exists else None

    @property
    def exists(self) -> bool:
        """Whether slices are made as large as this."""
        sides = zip(sorted(self.shape), sorted(self.chip.largest), strict=True)
        return all(side <= most for side, most in sides)


def parse_topology(text: str) -> Topology:
    """The slice that a name like v5e:4x4, v5p:8x8x4 or v6e:16x16@2 (two slices) stands for.

    Raises:
      ValueError: for another form, an unknown chip, a wrong number of sides.
    """
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)(?:@(\d+))?", text.strip().lower())
    if not match:
        raise ValueError(
            f"Topology {text!r} is not understood; write CHIP:SIDExSIDE, such as v5e:4x4,"
            " v5p:4x4x8 or, for two slices, v6e:16x16@2. A name like v5e-16 counts cores or chips"
            " and leaves the shape open."
        )
    name, sides, slices = match.groups()
    name = _ALIASES.get(name, name)
    if name not in CHIPS or not CHIPS[name].wraps_at > 1:
        known = ", ".join(chip.name for chip in CHIPS.values() if chip.wraps_at > 1)
        raise ValueError(f"Chip {name!r} of topology {text!r} is unknown; the table has {known}.")
    shape = tuple(int(side) for side in sides.split("x"))
    chip, num_slices = CHIPS[name], int(slices or 1)
    if len(shape) != chip.torus_dims or min(shape) < 1 or num_slices < 1:
        example = "x".join(["4"] * chip.torus_dims)
        raise ValueError(
            f"Topology {text!r} has {len(shape)} sides; slices of {name} have {chip.torus_dims},"
            f" each 1 or more, such as {name}:{example}."
        )
    found = Topology(chip, shape, num_slices)
    if not found.exists:
        largest = "x".join(map(str, chip.largest))
        raise ValueError(
            f"No slice of {name} is as large as topology {text!r}; the largest is {name}:{largest}."
            f" More chips are several slices, such as {name}:{largest}@2."
        )
    return found

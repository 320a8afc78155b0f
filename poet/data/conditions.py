"""Which pictures besides the clip itself a record gets: a masked clip, flow and depth."""

import dataclasses
from typing import Any

import numpy as np

from poet.data import masking, structure
from poet.typing import UInt8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conditions:
    """What `prepare` makes of every clip of two frames or more.

    Attributes:
      regions: of `masking.REGIONS`, one of which is hidden in each clip; () makes no masked clips.
      seed: of the choice of regions.
      estimator: of flow and depth; None makes neither.
    """

    regions: tuple[str, ...] = ()
    seed: int = 0
    estimator: structure.StructureEstimator | None = None

    def __post_init__(self):
        object.__setattr__(self, "regions", tuple(self.regions))
        if self.regions:
            masking.check_regions(self.regions)

    def facts(self) -> dict[str, Any]:
        """What decides the pictures; part of the dataset's preprocessing."""
        fills = masking.fill_rules()
        return {
            "regions": {name: fills[name] for name in self.regions},
            "region_seed": self.seed if self.regions else None,
            "structure": None if self.estimator is None else self.estimator.fingerprint,
        }

    def pictures(
        self, clip, frames_per_token: int
    ) -> tuple[str, dict[str, UInt8[np.ndarray, "T Y X 3"]]]:
        """(region or "", {field: frames}) of one `clips.Clip`; nothing for a still image."""
        if len(clip.frames) == 1:
            return "", {}
        region, found = "", {}
        if self.regions:
            region = masking.draw_region(clip.clip_id, self.regions, self.seed)
            found["masked"] = masking.hide(clip.frames, region, frames_per_token)
        if self.estimator is not None:
            found["structure"] = structure.pack(
                *self.estimator(clip.frames, clip.facts, clip.start_s)
            )
        return region, found

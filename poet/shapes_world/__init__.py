"""A world of coloured shapes whose laws are known, so that generated clips can be measured."""

from poet.shapes_world.render import render_clip
from poet.shapes_world.sampling import sample_clips
from poet.shapes_world.world import ClipSpec

__all__ = ["ClipSpec", "render_clip", "sample_clips"]

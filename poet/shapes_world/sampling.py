"""Which clips there are: clip i of a split is a function of (seed, split, i) and nothing else."""

import numpy as np

from poet.shapes_world import captions, world

SPLITS = ("train", "validation", "held_out")


def sample_clips(seed: int, split: str, count: int, start: int = 0) -> list[world.ClipSpec]:
    """Clips start .. start + count - 1 of a split.

    train draws one of the 120 training combinations for each clip; validation goes round the same
    combinations and held_out round the 24 others, both in an order fixed by the seed, so that any
    run of clips covers them evenly.

    Raises:
      ValueError: unknown split, negative seed or count.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}.")
    if seed < 0 or count < 0 or start < 0:
        raise ValueError(
            f"seed, count and start must be 0 or more, got {seed}, {count} and {start}."
        )
    combinations = world.combinations(held_out=split == "held_out")
    stream = SPLITS.index(split)
    order = np.random.default_rng([seed, stream]).permutation(len(combinations))
    return [
        _sample_clip(
            split, index, combinations, order, np.random.default_rng([seed, stream, index])
        )
        for index in range(start, start + count)
    ]


def _sample_clip(split, index, combinations, order, rng) -> world.ClipSpec:
    choice = rng.integers(len(order)) if split == "train" else index % len(order)
    shape, colour, motion = combinations[order[choice]]
    moves = motion in world.DIRECTIONS
    speed = world.SPEEDS[rng.integers(len(world.SPEEDS))] if moves else world.NONE
    start_x, start_y = _sample_start(motion, speed, rng)
    return world.ClipSpec(
        clip_id=f"{split}_{index:06d}",
        split=split,
        caption=captions.caption(shape, colour, motion, speed, rng),
        shape=shape,
        colour=colour,
        motion=motion,
        speed=speed,
        start_x=start_x,
        start_y=start_y,
    )


def _sample_start(motion: str, speed: str, rng) -> tuple[float, float]:
    """Uniform centre among those with a first hit late enough and no hit near the last frame."""
    half = world.GROWING_HALF_EXTENTS[1] if motion == "growing" else world.HALF_EXTENT
    while True:
        x, y = (float(value) for value in rng.uniform(half, 1.0 - half, size=2))
        if motion not in world.DIRECTIONS:
            return x, y
        direction_x, direction_y = world.DIRECTIONS[motion]
        start, sign = (x, direction_x) if direction_x else (y, direction_y)
        until_s = world.LAST_FRAME_S + world.END_MARGIN_S
        hits = world.bounce_times_s(start, sign * world.SPEED_W_PER_S[speed], until_s)
        is_clear = all(
            world.FIRST_HIT_S <= hit_s <= world.LAST_FRAME_S - world.END_MARGIN_S for hit_s in hits
        )
        if is_clear:
            return x, y

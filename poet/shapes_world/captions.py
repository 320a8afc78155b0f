"""Sentences for clips: varied in build and verb, fixed in the words that name attributes.

Every sentence holds the colour word and the shape word once; a moving clip's holds its direction
and a word for its speed, a still one's the word "still", a growing one's a form of "grow".
"""

import numpy as np

from poet.shapes_world import world

MAX_CAPTION_CHARACTERS = 47

# (third person, -ing form)
_MOVING_VERBS = (
    ("moves", "moving"),
    ("goes", "going"),
    ("slides", "sliding"),
    ("drifts", "drifting"),
    ("glides", "gliding"),
)
_ADVERBS = {"slow": "slowly", "fast": "quickly"}
_MOVING = (
    "a {colour} {shape} {verb} {motion} {adverb}",
    "the {colour} {shape} is {verb_ing} {motion} {adverb}",
    "{adverb} a {colour} {shape} {verb} {motion}",
    "a {speed} {colour} {shape} {verb} {motion}",
    "one {colour} {shape}, {verb_ing} {motion} {adverb}",
    "a {shape} that is {colour} {verb} {motion} {adverb}",
)
_STILL = (
    "a {colour} {shape} stays still",
    "the {colour} {shape} is still",
    "a still {colour} {shape}",
    "one {colour} {shape}, standing still",
    "a {shape} that is {colour} stands still",
    "the {colour} {shape} keeps still",
)
_GROWING = (
    "a {colour} {shape} grows",
    "the {colour} {shape} is growing",
    "a growing {colour} {shape}",
    "one {colour} {shape}, growing bigger",
    "a {shape} that is {colour} grows bigger",
    "the {colour} {shape} keeps growing",
)
TEMPLATES = {"still": _STILL, "growing": _GROWING} | dict.fromkeys(world.DIRECTIONS, _MOVING)


def caption(shape: str, colour: str, motion: str, speed: str, rng: np.random.Generator) -> str:
    """One sentence for these attributes, at most 47 ASCII characters, drawn with `rng`."""
    template = TEMPLATES[motion][rng.integers(len(TEMPLATES[motion]))]
    verb, verb_ing = _MOVING_VERBS[rng.integers(len(_MOVING_VERBS))]
    return template.format(
        shape=shape,
        colour=colour,
        motion=motion,
        speed=speed,
        adverb=_ADVERBS.get(speed, ""),
        verb=verb,
        verb_ing=verb_ing,
    )

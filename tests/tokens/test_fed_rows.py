"""The rows of one training pass under a schedule: the drawing, and what every row is."""

import inspect

import numpy as np
import pytest

from poet.tokens import sequence, tasks
from poet.tokens.clip import ClipShape, SoundShape
from poet.tokens.fed_rows import fed_rows
from poet.tokens.schedule import RASTER, Schedule
from poet.tokens.vocabulary import Vocabulary

VOCABULARY = Vocabulary(num_visual=12, audio_levels=(5, 6), num_text=20)


# Frames of 3 x 4 tokens; two of them.
CLIP = ClipShape(5, 24, 32)


def plan_of(name, clip=CLIP):
    return sequence.plan(tasks.get(name), clip, SoundShape(2, 4), 5, VOCABULARY)


def test_the_drawing():
    """Two rows of three tokens, after a prefix of <bos>, the task and <res>."""
    plan = plan_of("unconditional", ClipShape(1, 16, 24))
    rows = fed_rows(plan, Schedule("diagonal"))
    assert rows.prefix_length == 3 and rows.num_extra == 1
    drawn = ["row pass  " + " ".join("Pb012345ec")]
    for name, since, seen in zip("Pb012345ec", rows.since[2:], rows.visible[2:, 2:], strict=True):
        marks = " ".join("x" if one else "." for one in seen)
        drawn.append(f" {name}   {since:2d}   {marks}")
    assert "\n".join("    " + line for line in drawn) in inspect.getdoc(fed_rows)
    # c is fed token 0 (position 4) in the place of token 2 (position 6); it predicts token 3.
    assert (rows.places[-1], rows.sources[-1]) == (6, 4)
    c = len(rows.places) - 1
    # Of the targets: tokens 0 to 5, <eov_o>, <eos>.
    np.testing.assert_array_equal(rows.predicting, [3, 4, 5, c, 7, 8, 9, 10])


@pytest.mark.parametrize("slope", [0.0, 0.5, 0.75])
@pytest.mark.parametrize("name", ["image_to_video", "text_to_video_with_sound"])
def test_rows(name, slope):
    """Each fed position once with its token; one more for each line of tokens but the first."""
    plan = plan_of(name)
    rows = fed_rows(plan, Schedule("diagonal", slope))
    count = plan.length - 1
    slot = next(s for s in plan.slots if s.is_output and s.kind == "visual")
    starts = np.arange(slot.start, slot.stop, 4)[1:]
    assert rows.num_extra == len(starts) and len(rows.places) == count + rows.num_extra
    for array in (rows.places, rows.sources):
        np.testing.assert_array_equal(array[:count], np.arange(count))
    np.testing.assert_array_equal(rows.places[count:], starts - 1)
    assert (rows.sources[count:] < rows.places[count:]).all()
    assert (rows.since[count:] < rows.since[starts - 1]).all(), "the true end comes later"
    # Every target is predicted in the place before it, at starts by the extra row.
    targets = np.arange(plan.prefix_length + 1, plan.length)
    np.testing.assert_array_equal(rows.places[rows.predicting], targets - 1)
    at_start = np.isin(targets, starts)
    np.testing.assert_array_equal(rows.predicting >= count, at_start)
    # Sound and delimiters follow the picture, one a pass.
    after = rows.since[slot.stop - 1 : count]
    np.testing.assert_array_equal(
        after, rows.since[: slot.stop - 1].max() + 1 + np.arange(len(after))
    )


def test_nothing_sees_what_is_not_written():
    """A row sees no row of a later pass, and rows at the end see every place once."""
    plan = plan_of("text_to_video_with_sound")
    rows = fed_rows(plan, Schedule("diagonal", 0.5))
    later = rows.since[None, :] > rows.since[:, None]
    assert not (rows.visible & later).any()
    last = plan.length - 2
    np.testing.assert_array_equal(rows.visible[last], np.arange(len(rows.places)) <= last)


def test_raster_is_causal_after_the_prefix():
    plan = plan_of("image_to_video")
    for schedule in (RASTER, Schedule("diagonal", 1.0)):
        rows = fed_rows(plan, schedule)
        places = np.arange(plan.length - 1)
        want = places[None, :] <= places[:, None]
        want[:, : plan.prefix_length] |= places[:, None] < plan.prefix_length
        assert rows.num_extra == 0
        np.testing.assert_array_equal(rows.visible, want)
        np.testing.assert_array_equal(rows.predicting, places[plan.prefix_length :])


def test_arrays_are_read_only():
    rows = fed_rows(plan_of("unconditional"), Schedule("diagonal"))
    for array in (rows.places, rows.sources, rows.since, rows.predicting, rows.visible):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0

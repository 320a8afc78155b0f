"""In which order tokens are written: hand-worked passes; nothing is fed before it is written."""

import numpy as np
import pytest

from poet.tokens import schedule, sequence, tasks
from poet.tokens.clip import ClipShape, SoundShape
from poet.tokens.schedule import IDLE, RASTER, Schedule
from poet.tokens.vocabulary import Vocabulary

VOCABULARY = Vocabulary(num_visual=12, audio_levels=(5, 6), num_text=20)


def plan_of(name):
    """Frames of 3 x 4 tokens; two of them."""
    return sequence.plan(tasks.get(name), ClipShape(5, 24, 32), SoundShape(2, 4), 5, VOCABULARY)


def visual_slot(plan):
    return next(slot for slot in plan.slots if slot.is_output and slot.kind == "visual")


def test_one_column_behind_is_the_anti_diagonal():
    """Hand-worked: a row starts one pass after the row above; frames overlap."""
    plan = plan_of("unconditional")
    slot = visual_slot(plan)
    passes = schedule.passes_of(plan, slot, Schedule("diagonal"))
    written = [sorted(t - slot.start for t in row if t != IDLE) for row in passes.targets]
    # Tokens of the first frame are 0-3, 4-7, 8-11; the second frame starts at 12.
    assert written == [
        [0],
        [1, 4],
        [2, 5, 8],
        [3, 6, 9, 12],
        [7, 10, 13, 16],
        [11, 14, 17, 20],
        [15, 18, 21],
        [19, 22],
        [23],
    ]
    first = {
        int(target): int(source)
        for targets, sources in zip(passes.targets, passes.sources, strict=True)
        for target, source in zip(targets, sources, strict=True)
    }
    # The second row starts from the only token above; the first one of all from <bov_o>.
    assert first[slot.start + 4] == slot.start and first[slot.start] == slot.start - 1
    # The true end of the first row is fed in its own place once it is written.
    assert slot.start + 3 in passes.rows[4]


@pytest.mark.parametrize("slope", [0.0, 0.5, 0.75])
def test_everything_is_fed_and_written_in_time(slope):
    plan = plan_of("text_to_video")
    slot = visual_slot(plan)
    passes = schedule.passes_of(plan, slot, Schedule("diagonal", slope))
    written = {position: -1 for position in range(slot.start)}
    for number in range(len(passes)):
        lanes = [lane for lane in range(passes.width) if passes.rows[number, lane] != IDLE]
        for lane in lanes:
            assert written[int(passes.sources[number, lane])] < number, "fed before it was written"
        for lane in lanes:
            if passes.targets[number, lane] != IDLE:
                written[int(passes.targets[number, lane])] = number
    assert set(written) == set(range(slot.stop))
    fed_last = {}
    for rows, sources in zip(passes.rows, passes.sources, strict=True):
        fed_last |= dict(zip(rows.tolist(), sources.tolist(), strict=True))
    for position in range(slot.start, slot.stop - 1):
        assert fed_last[position] == position, "the cache ends with the true tokens"


def test_slope_one_is_raster():
    plan = plan_of("text_to_video")
    a = schedule.passes_of(plan, visual_slot(plan), Schedule("diagonal", 1.0))
    b = schedule.passes_of(plan, visual_slot(plan), RASTER)
    for name in ("rows", "sources", "targets", "order"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_sound_is_raster_whatever_the_schedule():
    plan = plan_of("video_to_audio")
    for slot in (slot for slot in plan.slots if slot.is_output):
        assert schedule.passes_of(plan, slot, Schedule("diagonal")).width == 1


def test_refusals():
    with pytest.raises(ValueError, match="Schedule 'spiral' is unknown; choose raster or diag"):
        Schedule("spiral")
    with pytest.raises(ValueError, match="slope=2 must be between 0"):
        Schedule("diagonal", 2)


def test_passes_are_counted():
    plan = plan_of("text_to_video")
    assert schedule.describe(plan, RASTER) == {"schedule": "raster", "passes": 24, "tokens": 24}
    assert schedule.describe(plan, Schedule("diagonal"))["passes"] == 9


def test_runs_end_where_caches_grow_and_frames_are_whole():
    """Twelve passes a frame; pass i feeds position ``start`` + i - 1."""
    plan = plan_of("text_to_video")
    slot = visual_slot(plan)
    passes = schedule.passes_of(plan, slot, RASTER)
    grows = [16 * k - slot.start + 1 for k in (1, 2) if 0 < 16 * k - slot.start + 1 < 24]
    assert [stop for _, stop in schedule.runs_of(plan, slot, passes, 16)] == [*grows, 24]
    cut = schedule.runs_of(plan, slot, passes, 16, every_frame=True)
    assert [stop for _, stop in cut] == sorted({*grows, 12, 24})
    assert [first for first, _ in cut] == [0, *(stop for _, stop in cut[:-1])]

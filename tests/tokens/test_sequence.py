import jax.numpy as jnp
import numpy as np
import pytest

from poet.tokens import sequence, tasks
from poet.tokens import vocabulary as ids
from poet.tokens.clip import ClipShape, SoundShape
from poet.tokens.tasks import Part, Task
from poet.tokens.vocabulary import SPECIAL_NAMES, Vocabulary

PAPER = Vocabulary()
SQUARE = ClipShape(17, 128, 128)
PORTRAIT = ClipShape(17, 224, 128)

# A clip small enough to draw: 2 latent frames of 1 x 2 tokens, 2 levels of 3 audio frames.
TINY = Vocabulary(num_visual=10, audio_levels=(4, 5), num_text=20)
TINY_CLIP = ClipShape(17, 8, 16)
TINY_SOUND = SoundShape(2, 3)
AV_CONTINUATION = Task(
    "av_continuation",
    ids.AV_CONTINUATION,
    (Part("visual", "visual", 0, 1), Part("audio", "audio", 0, 1)),
    (Part("visual", "visual", 1), Part("audio", "audio", 1)),
)
# The two continuations of the paper's sizes take more sound than the small clip has.
ALL_TASKS = [
    task for name, task in tasks.TASKS.items() if not name.startswith("audio_video_continuation")
]
ALL_TASKS.append(AV_CONTINUATION)


def paper_plan(name, clip=SQUARE):
    return sequence.plan(tasks.get(name), clip, SoundShape.for_clip(clip, 4), 64, PAPER)


def tiny_plan(task):
    return sequence.plan(task, TINY_CLIP, TINY_SOUND, 3, TINY)


def tiny_fields(batch=(2,), seed=0):
    rng = np.random.default_rng(seed)
    audio = [
        rng.integers(0, n, (*batch, 1, TINY_SOUND.num_audio_frames)) for n in TINY.audio_levels
    ]
    return {
        **{name: rng.integers(0, 10, (*batch, 5, 1, 2)) for name in ("masked", "structure")},
        "visual": rng.integers(0, 10, (*batch, 5, 1, 2)),
        "audio": np.concatenate(audio, axis=-2),
        "text_ids": rng.integers(0, 20, (*batch, 3)),
    }


@pytest.mark.parametrize(
    "name, clip, prefix, total",
    [
        ("text_to_image", SQUARE, 68, 325),
        ("unconditional", SQUARE, 2, 1285),
        ("text_to_video", SQUARE, 68, 1351),
        ("text_to_video", PORTRAIT, 69, 2312),
        ("image_to_video", SQUARE, 326, 1353),
        ("video_to_audio", SQUARE, 1284, 1711),
        ("future_prediction", SQUARE, 772, 1287),
        ("inpainting", SQUARE, 1284, 2567),
        ("outpainting_with_text", SQUARE, 1350, 2633),
        ("stylization", SQUARE, 1350, 2633),
        ("audio_to_video", SQUARE, 428, 1711),
        # One more than the spec's table, which leaves the duration token out.
        ("text_to_video", ClipShape(41, 128, 128), 69, 2888),
    ],
)
def test_lengths_of_the_paper(name, clip, prefix, total):
    got = paper_plan(name, clip)
    assert (got.prefix_length, got.length) == (prefix, total)


@pytest.mark.parametrize(
    "name, given, written",
    [
        ("audio_video_continuation", [256, 6, 6, 6, 6], [1024, 100, 100, 100, 100]),
        ("audio_video_continuation_9", [768, 56, 56, 56, 56], [512, 50, 50, 50, 50]),
    ],
)
def test_audio_video_continuation_of_the_paper(name, given, written):
    slots = paper_plan(name).slots
    assert [slot.stop - slot.start for slot in slots if not slot.is_output] == given
    assert [slot.stop - slot.start for slot in slots if slot.is_output] == written


def words(plan):
    """The template with one word a run, to compare with a drawing."""
    return " ".join(
        row.what if row.what.startswith("<") else f"{row.what}x{row.stop - row.start}"
        for row in plan.describe()
    )


@pytest.mark.parametrize(
    "task, drawing",
    [
        (
            "text_to_video",
            "<bos> <task:video> <bot_i> text_ids 0:3x3 <eot_i> <res:1>"
            " <bov_o> visual 0:5x10 <eov_o> <eos>",
        ),
        (
            "text_to_image",
            "<bos> <task:video> <bot_i> text_ids 0:3x3 <eot_i> <res:1> <bov_o> visual 0:1x2",
        ),
        (
            "image_to_video",
            "<bos> <task:video> <bot_i> text_ids 0:3x3 <eot_i> <bov_i> visual 0:1x2 <eov_i>"
            " <res:1> <bov_o> visual 1:5x8 <eov_o> <eos>",
        ),
        (
            "future_prediction",
            "<bos> <task:video> <bov_i> visual 0:3x6 <eov_i> <res:1>"
            " <bov_o> visual 3:5x4 <eov_o> <eos>",
        ),
        ("unconditional", "<bos> <task:video> <res:1> <bov_o> visual 0:5x10 <eov_o> <eos>"),
        (
            "inpainting",
            "<bos> <task:paint> <bov_i> masked 0:5x10 <eov_i> <res:1>"
            " <bov_o> visual 0:5x10 <eov_o> <eos>",
        ),
        (
            "stylization_with_first_frame",
            "<bos> <task:style> <bot_i> text_ids 0:3x3 <eot_i> <bov_i> visual 0:1x2"
            " structure 0:5x10 <eov_i> <res:1> <bov_o> visual 0:5x10 <eov_o> <eos>",
        ),
        (
            "text_to_video_with_sound",
            "<bos> <task:av_continuation> <bot_i> text_ids 0:3x3 <eot_i> <res:1>"
            " <bov_o> visual 0:5x10 <eov_o>"
            " <boa_o> audio 0:3 level 0x3 audio 0:3 level 1x3 <eoa_o> <eos>",
        ),
        (
            "video_to_audio",
            "<bos> <task:video_to_audio> <bov_i> visual 0:5x10 <eov_i> <res:1>"
            " <boa_o> audio 0:3 level 0x3 audio 0:3 level 1x3 <eoa_o> <eos>",
        ),
    ],
)
def test_layout(task, drawing):
    assert words(tiny_plan(tasks.get(task))) == drawing


def test_layout_with_both_outputs():
    plan = tiny_plan(AV_CONTINUATION)
    assert words(plan) == (
        "<bos> <task:av_continuation> <bov_i> visual 0:1x2 <eov_i>"
        " <boa_i> audio 0:1 level 0x1 audio 0:1 level 1x1 <eoa_i> <res:1>"
        " <bov_o> visual 1:5x8 <eov_o>"
        " <boa_o> audio 1:3 level 0x2 audio 1:3 level 1x2 <eoa_o> <eos>"
    )
    unpredicted = {
        SPECIAL_NAMES[plan.template[1:][i]] for i in np.flatnonzero(1 - plan.loss_weights)
    }
    assert "<boa_o>" in unpredicted and "<eov_o>" not in unpredicted


def test_size_tokens():
    """None for the paper's base clip, so that its sequences have the published lengths."""
    assert not any(
        row.what.startswith(("<res", "<dur")) for row in paper_plan("unconditional").describe()
    )
    assert "<res:0>" in words(paper_plan("unconditional", PORTRAIT))
    assert "<duration:0> <bov_o>" in words(paper_plan("unconditional", ClipShape(41, 128, 128)))
    assert "<duration:1>" in words(paper_plan("unconditional", ClipShape(45, 128, 128)))


@pytest.mark.parametrize("clip", [SQUARE, PORTRAIT])
def test_an_image_is_the_head_of_a_video(clip):
    image, video = paper_plan("text_to_image", clip), paper_plan("text_to_video", clip)
    assert not np.isin([ids.EOV_O, ids.EOS], image.template).any()
    for name in ("template", "segment", "t", "h", "w", "audio_frame", "level"):
        whole = getattr(video, name)
        np.testing.assert_array_equal(getattr(image, name), whole[: image.length], err_msg=name)
    assert image.prefix_length == video.prefix_length


@pytest.mark.parametrize("task", ALL_TASKS, ids=lambda task: task.name)
def test_training_and_sampling_see_one_template(task):
    plan, fields = tiny_plan(task), tiny_fields()
    whole = sequence.assemble(plan, fields)
    given = {part.field for part in task.inputs}
    head = sequence.assemble_prefix(plan, {f: fields[f] for f in given}, batch_size=2)
    inputs = whole["decoder_input_tokens"]
    np.testing.assert_array_equal(head["prefix_tokens"], inputs[:, : plan.prefix_length + 1])
    np.testing.assert_array_equal(head["text_ids"], whole["text_ids"])
    assert plan.template[plan.prefix_length] in (ids.BOV_O, ids.BOA_O)


@pytest.mark.parametrize("task", ALL_TASKS, ids=lambda task: task.name)
def test_assemble_is_one_function_for_numpy_and_jax(task):
    plan, fields = tiny_plan(task), tiny_fields()
    ours = sequence.assemble(plan, fields)
    jaxs = sequence.assemble(plan, {k: jnp.asarray(v) for k, v in fields.items()}, jnp)
    assert ours.keys() == jaxs.keys()
    for name, array in ours.items():
        assert array.dtype == jaxs[name].dtype, name
        np.testing.assert_array_equal(array, jaxs[name], err_msg=name)


@pytest.mark.parametrize("task", ALL_TASKS, ids=lambda task: task.name)
def test_targets_are_legal_and_come_back(task):
    plan, fields = tiny_plan(task), tiny_fields()
    batch = sequence.assemble(plan, fields)
    tokens = np.concatenate(
        [batch["decoder_input_tokens"], batch["decoder_target_tokens"][:, -1:]], axis=1
    )
    covered = np.zeros(plan.length, int)
    for start, stop, id_range in plan.legal:
        covered[start:stop] += 1
        id_range.to_local(tokens[:, start:stop])
    np.testing.assert_array_equal(covered, np.arange(plan.length) >= plan.prefix_length)

    for part in task.outputs:
        got = sequence.local_outputs(plan, tokens)[part.field]
        source = fields[part.field]
        want = (
            source[:, part.start : part.stop]
            if part.kind == "visual"
            else source[:, :, part.start :]
        )
        np.testing.assert_array_equal(got, want)


def test_loss_is_on_the_output_only():
    plan = tiny_plan(tasks.get("text_to_video"))
    weights = plan.loss_weights
    assert weights.shape == (plan.length - 1,)
    # Targets up to and with <bov_o> carry none; ten codes, <eov_o> and <eos> carry one each.
    np.testing.assert_array_equal(weights, np.arange(1, plan.length) > plan.prefix_length)
    assert weights.sum() == 12
    image = tiny_plan(tasks.get("text_to_image"))
    assert image.loss_weights.sum() == 2


def test_coordinates():
    plan = tiny_plan(tasks.get("video_to_audio"))
    visual = slice(3, 13)
    np.testing.assert_array_equal(plan.t[visual], [1, 1, 2, 2, 3, 3, 4, 4, 5, 5])
    np.testing.assert_array_equal(plan.w[visual], [1, 2] * 5)
    np.testing.assert_array_equal(plan.h[visual], [1] * 10)
    audio = slice(16, 22)
    np.testing.assert_array_equal(plan.audio_frame[audio], [1, 2, 3, 1, 2, 3])
    np.testing.assert_array_equal(plan.level[audio], [1, 1, 1, 2, 2, 2])
    np.testing.assert_array_equal(plan.segment[audio], [5] * 6)
    np.testing.assert_array_equal(plan.segment_index[audio], [2, 2, 2, 3, 3, 3])
    elsewhere = np.delete(np.arange(plan.length), np.r_[visual, audio])
    for name in ("t", "h", "w", "audio_frame", "level", "segment", "segment_index"):
        assert not getattr(plan, name)[elsewhere].any(), name


def test_a_condition_is_another_segment_than_a_given_frame():
    """Flow and depth lie on the clip's own grid; only the segment tells them from a picture."""
    plan = tiny_plan(tasks.get("stylization_with_first_frame"))
    _, first, structure, _ = plan.slots
    kinds = [sequence.SEGMENT_KINDS[plan.segment[slot.start]] for slot in (first, structure)]
    assert kinds == ["visual_in", "condition_in"]
    np.testing.assert_array_equal(plan.t[structure.start : structure.start + 2], [1, 1])


def test_coordinates_continue_where_the_input_ended():
    plan = tiny_plan(tasks.get("future_prediction"))
    first, second = plan.slots
    assert plan.t[first.start] == 1 and plan.t[second.start] == 4


def test_a_plan_is_a_value():
    task = tasks.get("text_to_video")
    assert tiny_plan(task) is tiny_plan(task)
    silent = sequence.plan(task, TINY_CLIP, None, 3, TINY)
    assert silent == tiny_plan(task) and hash(silent) == hash(tiny_plan(task))
    with pytest.raises(ValueError, match="read-only"):
        silent.template[0] = 5


def test_no_leading_axis():
    plan = tiny_plan(tasks.get("video_to_audio"))
    one = sequence.assemble(plan, tiny_fields(batch=()))
    assert one["decoder_input_tokens"].shape == (plan.length - 1,)
    assert one["text_ids"].shape == (0,)


def test_an_image_serves_where_one_frame_is_enough():
    plan = tiny_plan(tasks.get("image_to_video"))
    fields = tiny_fields()
    image = {"visual": fields["visual"][:, :1], "text_ids": fields["text_ids"]}
    a = sequence.assemble_prefix(plan, image, 2)["prefix_tokens"]
    b = sequence.assemble_prefix(plan, fields, 2)["prefix_tokens"]
    np.testing.assert_array_equal(a, b)


def change(name, value):
    return tiny_fields() | {name: value}


@pytest.mark.parametrize(
    "task, fields, message",
    [
        ("text_to_video", {"text_ids": np.zeros((2, 3), int)}, "needs the field 'visual'"),
        (
            "text_to_video",
            change("visual", np.zeros((2, 5, 2, 2), int)),
            r"'visual' of task 'text_to_video' has shape \(2, 5, 2, 2\), expected \[..., 5, 1, 2\]",
        ),
        ("text_to_video", change("visual", np.zeros((2, 4, 1, 2), int)), "expected"),
        ("video_to_audio", change("audio", np.zeros((2, 0, 3), int)), r"expected \[..., 2, 3\]"),
        ("text_to_video", change("visual", np.full((2, 5, 1, 2), 10)), "Code 10 is not in the"),
        ("text_to_video", change("text_ids", np.full((2, 3), 20)), "Code 20 is not in the 'text'"),
        ("text_to_video", change("visual", np.zeros((3, 5, 1, 2), int)), "leading axes"),
    ],
)
def test_fields_that_do_not_fit_are_refused(task, fields, message):
    with pytest.raises(ValueError, match=message):
        sequence.assemble(tiny_plan(tasks.get(task)), fields)


@pytest.mark.parametrize(
    "name, clip, sound, slots, message",
    [
        ("video_to_audio", TINY_CLIP, None, 3, "uses audio, but the clip has no sound"),
        ("video_to_audio", TINY_CLIP, SoundShape(3, 3), 3, "3 levels, the vocabulary only 2"),
        ("text_to_video", TINY_CLIP, None, 0, "text_slots=0 must be at least 1"),
        ("future_prediction", ClipShape(9, 8, 8), None, 3, "takes frames 3 to 3 of 'visual'"),
        ("image_to_video", ClipShape(1, 8, 8), None, 3, "clip has 1 latent visual frames"),
        ("unconditional", ClipShape(405, 8, 8), None, 3, "longer than the duration ids reach"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(name, clip, sound, slots, message):
    with pytest.raises(ValueError, match=message):
        sequence.plan(tasks.get(name), clip, sound, slots, TINY)

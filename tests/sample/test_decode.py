import dataclasses
import functools
import re

import jax
import numpy as np
import pytest
import tiny_lm

from poet.models.prefix_lm import PrefixLM
from poet.sample import decode
from poet.sample.requests import SamplingRequest
from poet.tokens import sequence
from poet.tokens import vocabulary as ids
from poet.tokens.tasks import Part, Task
from poet.train import partitioning

AV_CONTINUATION = Task(
    "av_continuation",
    ids.AV_CONTINUATION,
    (Part("visual", "visual", 0, 1), Part("audio", "audio", 0, 1)),
    (Part("visual", "visual", 1), Part("audio", "audio", 1)),
)
GREEDY = SamplingRequest(temperature=0.0)


@functools.cache
def sampling_params():
    return decode.prepare_for_sampling(tiny_lm.lively_params(), tiny_lm.CONFIG)


def generate_with(params, plan, fields, request, **more):
    return decode.generate(params, tiny_lm.CONFIG, plan, fields, request, **more)


def generate(plan, fields, request=GREEDY, **more):
    return generate_with(sampling_params(), plan, fields, request, **more)


@functools.partial(jax.jit, static_argnums=2)
def hidden(params, batch, plan):
    return PrefixLM(tiny_lm.CONFIG).apply({"params": params}, plan, batch)


def forced_logits(plan, batch):
    """Logits of every output slot by the training-time pass."""
    rows = hidden(tiny_lm.lively_params(), batch, plan)
    head = tiny_lm.lively_params()["head"]
    found = []
    for slot in (slot for slot in plan.slots if slot.is_output):
        first = slot.start - 1 - plan.prefix_length
        table = head[slot.ids.name][: slot.ids.num_ids]
        found.append(np.asarray(rows[:, first : first + slot.stop - slot.start] @ table.T))
    return found


def av_plan():
    sizes = (tiny_lm.CLIP, tiny_lm.SOUND, tiny_lm.TEXT_SLOTS, tiny_lm.VOCABULARY)
    return sequence.plan(AV_CONTINUATION, *sizes)


@pytest.mark.parametrize("block", [6, 256])
@pytest.mark.parametrize("name", [*tiny_lm.TASK_NAMES, "av_continuation"])
def test_cached_logits_are_those_of_training(name, block):
    """Also where a slot is cut into loops with a growing cache, and across forced delimiters."""
    plan = av_plan() if name == "av_continuation" else tiny_lm.plan_of(name)
    batch = sequence.assemble(plan, tiny_lm.random_fields())
    want = forced_logits(plan, batch)
    decoding = decode.Decoding(block=block)
    got = decode.cached_logits(sampling_params(), tiny_lm.CONFIG, plan, batch, decoding)
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_tied_tables_decode_as_a_scaled_embedding():
    """What is laid out for decoding is that of a model with such a head of its own."""
    params = {k: v for k, v in tiny_lm.lively_params().items() if k != "head"}
    head = jax.tree.map(lambda table: table * (0.02 / 0.3), params["embed"])
    want = decode.prepare_for_sampling(params | {"head": head}, tiny_lm.CONFIG)
    config = dataclasses.replace(tiny_lm.CONFIG, ties_embedding=True)
    got = decode.prepare_for_sampling(params, config)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got, want)


@pytest.mark.parametrize("name", ["image_to_video", "video_to_audio"])
def test_greedy_decoding_equals_brute_force(name):
    """One whole pass a token, over sequences whose future is filled with anything legal."""
    plan, fields = tiny_lm.plan_of(name), tiny_lm.random_fields()
    outputs = {part.field for part in plan.task.outputs}
    guess = tiny_lm.random_fields(seed=1)
    guess |= {field: fields[field] for field in fields if field not in outputs}
    if name == "image_to_video":
        guess["visual"][:, :1] = fields["visual"][:, :1]
    batch = sequence.assemble(plan, guess)
    tokens = np.concatenate(
        [batch["decoder_input_tokens"], batch["decoder_target_tokens"][:, -1:]], axis=1
    )
    for index, slot in enumerate(slot for slot in plan.slots if slot.is_output):
        for place in range(slot.stop - slot.start):
            logits = forced_logits(plan, batch | {"decoder_input_tokens": tokens[:, :-1]})[index]
            tokens[:, slot.start + place] = slot.ids.start + logits[:, place].argmax(axis=-1)
    want = sequence.local_outputs(plan, tokens)
    got = generate(plan, fields)
    assert got.keys() == want.keys()
    for field, codes in want.items():
        np.testing.assert_array_equal(got[field], codes)


def test_shapes_of_what_comes_back():
    fields = tiny_lm.random_fields()
    assert generate(tiny_lm.plan_of("text_to_image"), fields)["visual"].shape == (2, 1, 1, 2)
    sound = generate(tiny_lm.plan_of("video_to_audio"), {"visual": fields["visual"]})
    assert sound.keys() == {"audio"} and sound["audio"].shape == (2, 2, 4)
    both = generate(av_plan(), fields)
    assert both["visual"].shape == (2, 4, 1, 2) and both["audio"].shape == (2, 2, 3)


def test_draws_do_not_depend_on_the_batch():
    """Order and size of the batch change nothing: a request's id and seed fix its codes."""
    plan, fields = tiny_lm.plan_of("image_to_video"), tiny_lm.random_fields(batch_size=4)
    request = SamplingRequest(temperature=1.0, seed=3)
    names = np.array([11, 7, 2**40, 0])
    whole = generate(plan, fields, request, request_ids=names)["visual"]
    order = np.array([2, 0, 3, 1])
    turned = {name: codes[order] for name, codes in fields.items()}
    np.testing.assert_array_equal(
        generate(plan, turned, request, request_ids=names[order])["visual"], whole[order]
    )
    part = {name: codes[1:3] for name, codes in fields.items()}
    np.testing.assert_array_equal(
        generate(plan, part, request, request_ids=names[1:3])["visual"], whole[1:3]
    )
    other = generate(plan, fields, dataclasses.replace(request, seed=4), request_ids=names)
    assert (other["visual"] != whole).any()


@pytest.mark.parametrize("name", [*tiny_lm.TASK_NAMES, "av_continuation"])
def test_only_legal_codes_are_drawn(name):
    """Of every task, at a temperature that makes everything alike."""
    plan = av_plan() if name == "av_continuation" else tiny_lm.plan_of(name)
    request = SamplingRequest(temperature=1e6)
    fields = tiny_lm.random_fields(batch_size=64)
    made = generate(plan, fields, request, request_ids=np.arange(64))
    sizes = tiny_lm.VOCABULARY.audio_levels
    drawn = [(codes, 12) for field, codes in made.items() if field == "visual"]
    drawn += [(made["audio"][:, i], n) for i, n in enumerate(sizes) if "audio" in made]
    assert drawn
    for codes, size in drawn:
        assert set(np.unique(codes)) == set(range(size)), "every legal code, and no other"


def test_requests_of_a_batch_may_differ_in_everything():
    """Prompt, seed, temperature, top-k, top-p, guidance, negative text: as each gets alone."""
    plan, fields = tiny_lm.plan_of("text_to_video"), tiny_lm.random_fields(batch_size=5)
    requests = [
        SamplingRequest(),
        SamplingRequest(temperature=0.0, seed=1),
        SamplingRequest(temperature=0.7, guidance=4.0, seed=2),
        SamplingRequest(top_k=3, top_p=0.8, guidance=2.0),
        SamplingRequest(guidance=0.0),
    ]
    negative = np.zeros_like(fields["text_ids"])
    negative[3] = fields["text_ids"][0]
    ids = np.array([3, 1, 4, 1, 5])
    together = generate(plan, fields, requests, request_ids=ids, negative_text_ids=negative)
    for row, request in enumerate(requests):
        alone = generate(
            plan,
            {name: codes[row : row + 1] for name, codes in fields.items()},
            request,
            request_ids=ids[row : row + 1],
            negative_text_ids=negative[row : row + 1],
        )
        np.testing.assert_array_equal(alone["visual"][0], together["visual"][row])


def test_blocks_and_looking_on_change_nothing():
    """Neither the size of the cache's blocks nor reading frames as they are written."""
    plan, fields = av_plan(), tiny_lm.random_fields()
    request, seen = SamplingRequest(seed=8), []
    want = generate(plan, fields, request)

    def say(progress):
        seen.append((progress.done, progress.latent_frames, progress.written()["visual"]))

    got = generate(plan, fields, request, decoding=decode.Decoding(block=7), say=say)
    for field, codes in want.items():
        np.testing.assert_array_equal(got[field], codes)
    assert [frames for _, frames, _ in seen if frames] == sorted(f for _, f, _ in seen if f)
    assert {frames for _, frames, _ in seen} == {0, 1, 2, 3, 4} - {0} | {seen[0][1]}
    assert seen[-1][0] == 8 + 6, "passes of four frames of two tokens and two levels of three"
    for _, frames, codes in seen:
        np.testing.assert_array_equal(codes[:, :frames], want["visual"][:, :frames])
        assert not codes[:, frames + 1 :].any(), "nothing is written yet"


def test_likelihood_is_that_of_the_training_pass():
    plan, fields = av_plan(), tiny_lm.random_fields()
    made = generate(plan, fields, SamplingRequest(top_k=4), with_likelihood=True)
    nats = made.pop("log_likelihood")
    whole = fields | sequence.join_given(plan, fields, made)
    batch, total = sequence.assemble(plan, whole), 0.0
    slots = [slot for slot in plan.slots if slot.is_output]
    for slot, logits in zip(slots, forced_logits(plan, batch), strict=True):
        logs = np.asarray(jax.nn.log_softmax(logits))
        codes = batch["decoder_target_tokens"][:, slot.start - 1 : slot.stop - 1] - slot.ids.start
        total = total + np.take_along_axis(logs, codes[..., None], axis=-1)[..., 0].sum(axis=1)
    np.testing.assert_allclose(nats, total, rtol=1e-5)


@pytest.mark.parametrize("cache_dtype, weight_dtype", [("int8", "model"), ("model", "int8")])
def test_int8_stays_close(cache_dtype, weight_dtype):
    """Logits move by far less than they differ from each other, and by more than nothing."""
    plan = tiny_lm.plan_of("text_to_video")
    batch = sequence.assemble(plan, tiny_lm.random_fields())
    params = decode.prepare_for_sampling(tiny_lm.lively_params(), tiny_lm.CONFIG, weight_dtype)
    decoding = decode.Decoding(cache_dtype=cache_dtype)
    (got,) = decode.cached_logits(params, tiny_lm.CONFIG, plan, batch, decoding)
    (want,) = forced_logits(plan, batch)
    assert 0 < np.abs(got - want).max() < 0.1 * want.std()


def test_a_mesh_changes_nothing():
    """Weights over two devices, rows over two: the same codes."""
    plan, fields = tiny_lm.plan_of("text_to_video"), tiny_lm.random_fields(batch_size=4)
    request = SamplingRequest(seed=4, guidance=2.0)
    want = generate(plan, fields, request)["visual"]
    mesh = partitioning.make_mesh(partitioning.MeshConfig(replica=2, fsdp=1, tensor=2))
    boxed = tiny_lm.boxed_params()
    shardings = partitioning.param_shardings(boxed, mesh)
    placed = jax.device_put(tiny_lm.lively_params(), shardings)
    params = decode.prepare_for_sampling(placed, tiny_lm.CONFIG)
    decoding = decode.Decoding(row_sharding=partitioning.batch_sharding(mesh))
    got = generate_with(params, plan, fields, request, decoding=decoding)
    np.testing.assert_array_equal(got["visual"], want)
    kernel = params["layers"][0]["gate_up"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape)[1] == kernel.shape[1] // 2


def test_loops_neither_copy_nor_cut_caches_or_weights():
    """In the compiled program, whatever is as large as a cache or a matrix is updated in place."""
    plan = tiny_lm.plan_of("text_to_video")
    text = decode.compiled_loop(sampling_params(), tiny_lm.CONFIG, plan, batch_size=3)
    cache = 3 * 2 * 256 * 4  # rows, key/value heads, capacity, head width
    moved = [
        (shape, kind)
        for shape, kind in re.findall(r"= f32\[([\d,]+)\]\S* (copy|slice|dynamic-slice)\(", text)
        if np.prod([int(n) for n in shape.split(",")]) >= cache
    ]
    assert moved == []
    assert len(re.findall(r"dynamic-update-slice", text)) >= 4, "caches of two layers are updated"


@functools.cache
def guided(guidance, **flags):
    plan, fields = tiny_lm.plan_of("text_to_video"), tiny_lm.random_fields()
    request = SamplingRequest(temperature=0.0, guidance=guidance)
    if flags.get("negative"):
        flags = {"negative_text_ids": fields["text_ids"]}
    if flags.get("empty"):
        fields, flags = fields | {"text_ids": 0 * fields["text_ids"]}, {}
    return generate(plan, fields, request, **flags)["visual"]


def test_guidance_of_one_is_no_guidance():
    np.testing.assert_array_equal(guided(1.0), guided(1.0 + 1e-7))
    assert SamplingRequest(guidance=1.0 + 1e-7).mode.has_guidance


def test_guidance_of_zero_is_no_text():
    """The null half of a guidance pair is the row that training calls dropped."""
    np.testing.assert_array_equal(guided(0.0), guided(1.0, empty=True))


def test_text_led_away_from_itself_is_plain():
    """With the prompt as its own negative, both halves agree and the scale drops out."""
    np.testing.assert_array_equal(guided(5.0, negative=True), guided(1.0))


def test_images_are_the_first_frames_of_videos():
    fields = tiny_lm.random_fields()
    request = SamplingRequest(seed=5)
    image = generate(tiny_lm.plan_of("text_to_image"), fields, request)["visual"]
    video = generate(tiny_lm.plan_of("text_to_video"), fields, request)["visual"]
    np.testing.assert_array_equal(image, video[:, :1])


def test_given_and_written_frames_join():
    plan, fields = tiny_lm.plan_of("future_prediction"), tiny_lm.random_fields()
    written = generate(plan, fields)
    whole = sequence.join_given(plan, fields, written)
    assert whole.keys() == {"visual"}
    np.testing.assert_array_equal(whole["visual"][:, :3], fields["visual"][:, :3])
    np.testing.assert_array_equal(whole["visual"][:, 3:], written["visual"])
    # An output that starts at the beginning is whole already.
    sound = {"audio": np.zeros((2, 2, 4), np.int32)}
    assert sequence.join_given(tiny_lm.plan_of("video_to_audio"), fields, sound)["audio"].shape == (
        2,
        2,
        4,
    )


def refuse(name, fields=None, request=GREEDY, **more):
    fields = tiny_lm.random_fields() if fields is None else fields
    return lambda: generate(tiny_lm.plan_of(name), fields, request, **more)


@pytest.mark.parametrize(
    "ask, message",
    [
        (
            refuse("unconditional", request=SamplingRequest(guidance=2.0)),
            "guidance=2.0 needs a text to leave out",
        ),
        (refuse("unconditional"), "is given nothing, so the number of requests is unknown"),
        (refuse("video_to_audio", {}), r"\['visual'\] is missing"),
        (
            refuse("text_to_video", negative_text_ids=np.ones((2, 5), int)),
            "A negative text needs guidance",
        ),
        (refuse("text_to_video", {"text_ids": np.full((2, 5), 99)}), "Code 99 is not in"),
    ],
)
def test_refusals(ask, message):
    with pytest.raises(ValueError, match=message):
        ask()

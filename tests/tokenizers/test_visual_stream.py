"""Clips in chunks: the loop gives what the whole clip gives, whatever the plan."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poet.layers.conv import STREAM
from poet.tokenizers import magvit2, visual
from poet.tokenizers.magvit2 import Magvit2, MagvitConfig
from poet.train import compiling

FRAMES = 25
# Programs that run once are compiled fast rather than well.
FAST = {"xla_backend_optimization_level": 0}


def config_of(strided_kernel):
    return MagvitConfig(
        base_channels=4,
        multipliers=(1, 2, 2, 4),
        blocks_per_stage=1,
        norm_groups=2,
        num_bits=10,
        strided_kernel=strided_kernel,
    )


@pytest.fixture(scope="module")
def config():
    return config_of(4)


@pytest.fixture(scope="module")
def params(config):
    return compiling.run_once(functools.partial(magvit2.init_params, config), jax.random.key(0))


@pytest.fixture(scope="module")
def video():
    return np.asarray(jax.random.uniform(jax.random.key(1), (2, FRAMES, 16, 24, 3)))


@pytest.fixture(scope="module")
def latents(config, params, video):
    return apply_whole(config, params, video, "encode_to_latents")


def pieces(values, lengths):
    cuts = [0, *itertools.accumulate(lengths)]
    assert cuts[-1] == values.shape[1]
    return [values[:, a:b] for a, b in itertools.pairwise(cuts)]


@functools.partial(jax.jit, static_argnames=("config", "method"), compiler_options=FAST)
def apply_whole(config, params, values, method):
    """At once, without chunks or batches: the reference."""
    return Magvit2(config).apply({"params": params}, values, method=method)


@functools.partial(jax.jit, static_argnames=("config", "is_start", "method"), compiler_options=FAST)
def apply_chunk(config, params, stream, values, is_start, method):
    out, changed = Magvit2(config).apply(
        {"params": params, STREAM: stream}, values, is_start, method=method, mutable=[STREAM]
    )
    return out, changed[STREAM]


def apply_in_chunks(config, params, chunks, method):
    stream, outs = {}, []
    for number, chunk in enumerate(chunks):
        out, stream = apply_chunk(config, params, stream, chunk, number == 0, method)
        outs.append(out)
    return np.concatenate(outs, axis=1)


@pytest.mark.parametrize("lengths", [(1, 4, 4, 4, 4, 4, 4), (17, 4, 4), (1, 4, 16, 4)])
def test_latents_in_chunks_are_those_of_the_whole_clip(config, params, video, latents, lengths):
    chunked = apply_in_chunks(config, params, pieces(video, lengths), "encode_to_latents")
    np.testing.assert_allclose(chunked, latents, atol=1e-5)


@pytest.mark.slow
def test_the_papers_strided_kernels_keep_one_frame_less(video):
    config = config_of(3)
    params = magvit2.init_params(config, jax.random.key(0))
    whole = apply_whole(config, params, video, "encode_to_latents")
    chunked = apply_in_chunks(config, params, pieces(video, (17, 8)), "encode_to_latents")
    np.testing.assert_allclose(chunked, whole, atol=1e-5)


@pytest.mark.parametrize(
    "lengths",
    [
        (1, 1, 1, 1, 1, 1, 1),
        pytest.param((4, 1, 1, 1), marks=pytest.mark.slow),
        (1, 4, 1, 1),
    ],
)
def test_pixels_in_chunks_are_those_of_the_whole_clip(config, params, latents, lengths):
    signs = np.where(latents >= 0, 1.0, -1.0).astype(np.float32)
    whole = apply_whole(config, params, signs, "decode_latents")
    chunked = apply_in_chunks(config, params, pieces(signs, lengths), "decode_latents")
    np.testing.assert_allclose(chunked, whole, atol=1e-5)


@pytest.mark.slow
def test_ids_differ_only_where_a_latent_is_within_rounding_of_zero(config, params, video, latents):
    tokenizer = visual.VisualTokenizer(config, params, "x", batch_size=2)
    whole = apply_whole(config, params, video, "encode")
    lengths = (1, 4, 16, 4)
    for codes in (
        tokenizer.encode(video),
        np.concatenate(list(tokenizer.encode_chunks(pieces(video, lengths))), axis=1),
    ):
        chunked = apply_in_chunks(config, params, pieces(video, lengths), "encode_to_latents")
        error = np.abs(chunked - latents).max()
        is_sure = np.abs(latents).min(axis=-1) > error
        assert is_sure.mean() >= 0.9999
        np.testing.assert_array_equal(codes[is_sure], whole[is_sure])


@pytest.mark.slow
def test_a_picture_has_the_codes_of_a_clips_first_frame_to_the_bit(config, params, video):
    tokenizer = visual.VisualTokenizer(config, params, "x", batch_size=2)
    clip = tokenizer.encode(video)
    np.testing.assert_array_equal(tokenizer.encode(video[:, :1]), clip[:, :1])
    pixels = tokenizer.decode(clip)
    np.testing.assert_array_equal(tokenizer.decode(clip[:, :1]), pixels[:, :1])
    assert pixels.shape == video.shape


@pytest.mark.slow
def test_memory_is_that_of_a_chunk(config, params):
    """The compiled program for a chunk does not know how long the clip is."""

    def temporary_bytes(num_frames):
        shape = jax.ShapeDtypeStruct((1, num_frames, 64, 64, 3), jnp.float32)
        function = jax.jit(visual.encode, static_argnums=(0, 4))
        start = jax.ShapeDtypeStruct((1, 1, 64, 64, 3), jnp.float32)
        _, stream = jax.eval_shape(
            lambda p, x: visual.encode(config, p, {}, x, True), params, start
        )
        compiled = function.lower(config, params, stream, shape, False).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    # A whole minute at 8 frames a second holds 30 times as much as a chunk of it.
    assert temporary_bytes(480) > 10 * temporary_bytes(16)
    tokenizer = visual.VisualTokenizer(config, params, "x")
    seen = []
    compiled = tokenizer._encode
    tokenizer._encode = lambda *args, **more: seen.append(args[2].shape) or compiled(*args, **more)
    tokenizer.encode(np.zeros((1, 41, 16, 24, 3), np.float32))
    assert [shape[1] for shape in seen] == [1, 16, 16, 8]


def test_large_pictures_go_in_smaller_batches(config, params):
    tokenizer = visual.VisualTokenizer(config, params, "x", batch_size=8)
    seen = []
    tokenizer._encode = lambda *args, **more: (
        seen.append(args[2].shape) or (np.zeros((len(args[2]), 1, 64, 112), np.int32), {})
    )
    tokenizer.encode(np.zeros((2, 1, 512, 896, 3), np.float32))
    assert seen == [(1, 1, 512, 896, 3)] * 2


def test_refusals(config, params, video):
    tokenizer = visual.VisualTokenizer(config, params, "x", batch_size=2)
    with pytest.raises(ValueError, match="Expected 1 . a multiple of 4 frames, got 4; the nearest"):
        list(tokenizer.encode_chunks([video[:, :4]]))
    with pytest.raises(
        ValueError, match="multiple of 4 frames in a chunk after the first, got 5; "
    ):
        list(tokenizer.encode_chunks([video[:, :1], video[:, 1:6]]))
    with pytest.raises(ValueError, match="got 3; give 4 and keep the rest"):
        list(tokenizer.encode_chunks([video[:, :1], video[:, 1:4]]))

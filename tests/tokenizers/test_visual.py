"""The visual tokenizer: causality, codes and pixels, files on disk, one training step."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from poet.tokenizers import inflation, magvit2, protocol, visual
from poet.tokenizers.magvit2 import MagvitConfig
from poet.tokenizers.quantizers import lfq
from poet.train import visual_step
from poet.train.visual_step import VisualLossConfig

CONFIG = MagvitConfig(
    base_channels=4, multipliers=(1, 1, 1, 2), blocks_per_stage=1, norm_groups=2, num_bits=6
)


@pytest.fixture(scope="module")
def params():
    return jax.jit(functools.partial(magvit2.init_params, CONFIG))(jax.random.key(1))


@pytest.fixture(scope="module")
def tokenizer(params):
    prints = protocol.fingerprint(visual.KIND, CONFIG, params)
    return visual.VisualTokenizer(CONFIG, params, prints, batch_size=2)


@pytest.fixture(scope="module")
def video():
    """Three clips of smooth colours that move, [3, 9, 16, 16, 3]."""
    t, y, x, c = np.meshgrid(
        np.arange(9), np.arange(16), np.arange(16), np.arange(3), indexing="ij"
    )
    clips = [0.5 + 0.5 * np.sin(0.3 * (n + 1) * t + 0.2 * y - 0.3 * n * x + c) for n in range(3)]
    return np.stack(clips).astype(np.float32)


@pytest.fixture(scope="module")
def codes(tokenizer, video):
    return tokenizer.encode(video)


def test_codes_have_the_grid_of_the_clip(codes, tokenizer):
    assert codes.shape == (3, 3, 2, 2)
    assert codes.dtype == np.int32
    assert tokenizer.num_codes == 64
    assert 0 <= codes.min() and codes.max() < 64
    assert len(np.unique(codes)) > 1


def test_codes_of_the_beginning_are_the_prefix_of_the_clips(tokenizer, video, codes):
    np.testing.assert_array_equal(tokenizer.encode(video[:, :1]), codes[:, :1])
    np.testing.assert_array_equal(tokenizer.encode(video[:, :5]), codes[:, :2])


def test_pixels_of_the_beginning_are_the_prefix_of_the_clips(tokenizer, codes):
    whole = tokenizer.decode(codes)
    assert whole.shape == (3, 9, 16, 16, 3)
    assert whole.dtype == np.float32 and 0 <= whole.min() and whole.max() <= 1
    np.testing.assert_allclose(tokenizer.decode(codes[:, :2]), whole[:, :5], atol=1e-5)


def test_decode_is_a_function_of_the_codes(tokenizer, video, codes, params):
    """Bit for bit the reconstruction that training sees, and the same each time."""
    again = tokenizer.decode(codes)
    np.testing.assert_array_equal(tokenizer.decode(codes), again)
    np.testing.assert_array_equal(tokenizer.decode(codes[:1])[0], again[0])
    model = jax.jit(magvit2.Magvit2(CONFIG).apply)
    restored, latents = model({"params": params}, jnp.asarray(video))
    np.testing.assert_array_equal(lfq.to_ids(latents), codes)
    np.testing.assert_allclose(again, np.clip(restored, 0, 1), atol=1e-5)


def test_group_norm_keeps_frames_apart_and_matches_the_plain_formula(key):
    x = 3.0 + jax.random.normal(key, (2, 3, 4, 5, 6))
    ones, zeros = jnp.ones((1, 1, 6)), jnp.zeros((1, 1, 6))
    grouped = np.asarray(x).reshape(2, 3, 20, 2, 3)
    mean = grouped.mean((2, 4), keepdims=True)
    want = (grouped - mean) / np.sqrt(grouped.var((2, 4), keepdims=True) + 1e-6)
    got = magvit2.normalize_frames(x, 2, ones, zeros)
    np.testing.assert_allclose(got, want.reshape(x.shape), atol=1e-5)


def test_init_in_one_draw_is_the_modules_own_distribution(params):
    video = jnp.zeros((1, 1, 8, 8, 3))
    own = jax.eval_shape(magvit2.Magvit2(CONFIG).init, jax.random.key(0), video)["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, own)
    kernel = params["decoder"]["up_1"]["conv"]["kernel"]
    assert kernel.shape == (3, 3, 3, 8, 64)
    np.testing.assert_allclose(kernel.std() * np.sqrt(27 * 8), 1.0, atol=0.03)
    assert np.abs(kernel).max() * np.sqrt(27 * 8) < 2.3
    norm = params["encoder"]["norm_out"]
    assert norm["scale"].tolist() == [1] * 8 and norm["bias"].tolist() == [0] * 8
    assert not params["decoder"]["conv_out"]["bias"].any()


def test_channels_become_pixels_in_the_order_time_row_column_filter():
    """One position whose 8 blocks of channels are numbered: time slowest, filter fastest."""
    up = magvit2.Upsample((2, 2, 2))
    x = jnp.ones((1, 2, 1, 1, 1))
    variables = up.init(jax.random.key(0), x)
    kernel = jnp.zeros((3, 3, 3, 1, 8))
    variables = {"params": {"conv": {"kernel": kernel, "bias": jnp.arange(8.0)}}}
    out = up.apply(variables, x)
    assert out.shape == (1, 3, 2, 2, 1)
    # The first phase of the first frame is dropped: 4 5 6 7, then 0 1 2 3, then 4 5 6 7.
    assert out[0, 0, :, :, 0].tolist() == [[4, 5], [6, 7]]
    assert out[0, 1, :, :, 0].tolist() == [[0, 1], [2, 3]]


def test_stretched_latents_lie_under_their_pixels():
    latents = jnp.arange(2.0).reshape(1, 2, 1, 1, 1)
    out = magvit2.stretch_latents(latents, (4, 2, 2))
    assert out.shape == (1, 5, 2, 2, 1)
    assert out[0, :, 0, 0, 0].tolist() == [0, 1, 1, 1, 1]


def test_saved_and_loaded_is_the_same_tokenizer(tokenizer, video, codes, tmp_path):
    prints = protocol.save(tmp_path / "visual", visual.KIND, CONFIG, tokenizer.params)
    assert prints == tokenizer.fingerprint
    assert sorted(p.name for p in (tmp_path / "visual").iterdir()) == ["config.json", "weights.npz"]
    loaded = protocol.load(tmp_path / "visual")
    assert loaded.fingerprint == prints and loaded.config == CONFIG
    np.testing.assert_array_equal(loaded.encode(video[:2]), codes[:2])


def test_fingerprint_changes_with_a_weight_and_a_size(params):
    prints = protocol.fingerprint(visual.KIND, CONFIG, params)
    moved = jax.tree.map(lambda weight: weight + 1e-6, params)
    other = MagvitConfig(**(vars(CONFIG) | {"num_bits": 7}))
    assert len({prints, protocol.fingerprint(visual.KIND, CONFIG, moved)}) == 2
    assert len({prints, protocol.fingerprint(visual.KIND, other, params)}) == 2


def test_it_states_its_geometry_and_licence(tokenizer):
    assert protocol.describe(tokenizer) == {
        "num_codes": CONFIG.num_codes,
        "px_per_token": 8,
        "frames_per_token": 4,
        "is_causal": True,
        "licence": "as its training data; the code is Poet's",
        "fingerprint": tokenizer.fingerprint,
    }


def test_refusals_of_directories(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="found no config.json; make one with"):
        protocol.load(tmp_path)
    protocol.save(tmp_path, visual.KIND, CONFIG, tokenizer.params)
    facts = json.loads((tmp_path / "config.json").read_text())

    def rewrite(**changes):
        (tmp_path / "config.json").write_text(json.dumps(facts | changes))

    rewrite(kind="vqgan")
    with pytest.raises(ValueError, match="is of kind 'vqgan'; this version knows dac, .*magvit2"):
        protocol.load(tmp_path)
    rewrite(code_version=0)
    with pytest.raises(ValueError, match="saved by version 0 of its code"):
        protocol.load(tmp_path)
    rewrite(fingerprint="0" * 64)
    with pytest.raises(ValueError, match="should have fingerprint 000000000000 but its files give"):
        protocol.load(tmp_path)


def test_refusals_of_video(tokenizer, video):
    with pytest.raises(ValueError, match="got 8; the nearest lengths are 5 and 9"):
        tokenizer.encode(video[:, :8])
    with pytest.raises(ValueError, match="multiple of 8 rows, got 12; resize to 8 or 16"):
        tokenizer.encode(video[:, :, :12])
    with pytest.raises(ValueError, match=r"shape \[batch, frames, rows, columns, 3\]"):
        tokenizer.encode(video[0])
    with pytest.raises(ValueError, match="divide uint8 by 255"):
        tokenizer.encode((video * 255).astype(np.uint8))
    with pytest.raises(ValueError, match=r"pixels in \[0, 1\], got"):
        tokenizer.encode(video * 2)
    with pytest.raises(ValueError, match=r"pixels in \[0, 1\], got nan"):
        tokenizer.encode(video * np.nan)


def test_refusals_of_codes(tokenizer, codes):
    with pytest.raises(ValueError, match="give one clip as codes"):
        tokenizer.decode(codes[0])
    with pytest.raises(ValueError, match="integer codes of shape"):
        tokenizer.decode(codes.astype(np.float32))
    with pytest.raises(ValueError, match=r"codes in \[0, 64\), got .* to 64"):
        tokenizer.decode(np.full_like(codes, 64))


@pytest.fixture(scope="module")
def trained(video):
    """State and measures after 30 steps on first frames, with a moving average."""
    losses, tx = VisualLossConfig(ema_decay=0.9), optax.adam(3e-3)
    step = jax.jit(visual_step.make_step(CONFIG, losses, tx))
    state = visual_step.init(jax.random.key(0), CONFIG, losses, tx)
    images = (video[:, ::2].reshape(-1, 1, 16, 16, 3) * 255).astype(np.uint8)
    rows = []
    for _ in range(30):
        state, measures = step(state, images, jax.random.key(0))
        rows.append(measures)
    return state, rows


@pytest.mark.slow
def test_training_learns_and_measures(trained):
    state, rows = trained
    assert int(state.step) == 30
    assert set(rows[0]) >= {"loss", "psnr_db", "commitment", "codes_used", "largest_bit_mean"}
    assert rows[-1]["psnr_db"] > rows[0]["psnr_db"] + 1
    assert all(np.isfinite(float(value)) for row in rows for value in row.values())
    assert 1 <= int(rows[-1]["codes_used"]) <= 64


@pytest.mark.slow
def test_the_tokenizer_has_the_moving_average_when_one_is_kept(trained):
    state, _ = trained
    averaged = visual_step.tokenizer_params(state)
    difference = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), averaged, state.params)
    assert 0 < max(jax.tree.leaves(difference)) < 0.1
    plain = state.replace(extra={})
    assert visual_step.tokenizer_params(plain) is state.params


@pytest.mark.slow
def test_parameters_and_average_are_inflated_after_the_last_image(video):
    """The first step on video finds them inflated; no other step touches them."""
    losses, tx = VisualLossConfig(ema_decay=0.9), optax.sgd(1e-2)
    key, images = jax.random.key(0), video[:, :1]
    plain = jax.jit(visual_step.make_step(CONFIG, losses, tx))
    inflating = jax.jit(visual_step.make_step(CONFIG, losses, tx, inflate_at=2))
    state = visual_step.init(key, CONFIG, losses, tx)
    for is_last in (False, True, False):
        expected, _ = plain(state, images, key)
        state, _ = inflating(state, images, key)
        trees = [expected.params, expected.extra["ema"]]
        if is_last:
            trees = [inflation.inflate(tree) for tree in trees]
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, atol=1e-6),
            [state.params, state.extra["ema"]],
            trees,
        )


def test_uint8_and_unit_floats_are_the_same_pixels():
    pixels = np.arange(24, dtype=np.uint8).reshape(1, 1, 2, 4, 3)
    np.testing.assert_allclose(
        visual_step.unit_pixels(jnp.asarray(pixels)),
        visual_step.unit_pixels(jnp.asarray(pixels / np.float32(255))),
        rtol=1e-6,
    )


def test_refuses_a_moving_average_that_never_moves():
    with pytest.raises(ValueError, match="ema_decay=1.0 is a share"):
        VisualLossConfig(ema_decay=1.0)

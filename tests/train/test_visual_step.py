"""The step of the visual tokenizer: measures, codes in use, bfloat16."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import save_file

from poet.tokenizers.discriminator import DiscriminatorConfig
from poet.tokenizers.magvit2 import Magvit2, MagvitConfig
from poet.tokenizers.perceptual import PerceptualConfig
from poet.tokenizers.quantizers.lfq import LfqLossConfig
from poet.train import compiling, visual_step
from poet.train.visual_step import VisualLossConfig

MODEL = MagvitConfig(
    base_channels=4, multipliers=(1, 1, 2, 2), blocks_per_stage=1, norm_groups=2, num_bits=4
)
LOSSES = VisualLossConfig(
    quantizer=LfqLossConfig(temperature=1.0),
    discriminator=DiscriminatorConfig(base_channels=4, multipliers=(1, 2)),
    codes_window=2,
)
SHAPE = (2, 5, 16, 16, 3)
TX = optax.sgd(0.0)


def gradients(losses):
    """(what passes to the update, measures) of a step in the middle of annealing, on noise."""
    init = functools.partial(
        visual_step.init, config=MODEL, loss_config=losses, tx=TX, clip_shapes=[SHAPE[1:4]]
    )
    state = compiling.run_once(init, jax.random.key(0))
    batch = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)
    step = visual_step.make_step(MODEL, losses, TX)
    return compiling.run_once(step.gradients, state, jnp.asarray(batch), jax.random.key(0))


@pytest.fixture(scope="module")
def exact():
    return gradients(LOSSES)


@pytest.fixture(scope="module")
def plain():
    """Without the discriminator, which takes as long to compile as all the rest."""
    return gradients(dataclasses.replace(LOSSES, discriminator=None))


def test_first_and_later_frames_make_up_the_whole(plain):
    error = {name: 10 ** (-plain[1][name] / 10) for name in plain[1] if name.startswith("psnr_db")}
    assert error.keys() == {"psnr_db", "psnr_db_first", "psnr_db_later"}
    whole = (error["psnr_db_first"] + 4 * error["psnr_db_later"]) / 5
    np.testing.assert_allclose(whole, error["psnr_db"], rtol=1e-4)


def test_means_of_channels_and_tokens_are_said(plain):
    means = [float(plain[1][f"channel_mean/{i:02}"]) for i in range(4)]
    assert max(map(abs, means)) == pytest.approx(float(plain[1]["largest_bit_mean"]))
    assert plain[1]["num_tokens"] == 2 * 2 * 2 * 2
    assert plain[1]["codes_used"] == np.sum(plain[0]["used"])


def test_codes_used_lately_are_of_the_window():
    used_at = jnp.full(16, visual_step._NEVER, jnp.int32).at[jnp.array([3, 4])].set(7)
    init = functools.partial(
        visual_step.init, config=MODEL, loss_config=VisualLossConfig(), tx=TX, clip_shapes=[]
    )
    shapes = jax.eval_shape(init, jax.random.key(0))
    state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    state = state.replace(step=jnp.int32(8), extra={"used_at": used_at.at[5].set(6)})
    grads = {
        "params": jax.tree.map(jnp.zeros_like, state.params),
        "game": {},
        "used": jnp.zeros(16, bool).at[9].set(True),
    }
    update = functools.partial(visual_step.apply_gradients, loss_config=LOSSES, tx=TX)
    state, measures = compiling.run_once(update, state, grads, jax.random.key(0))
    assert measures["codes_used_lately"] == 3, "9 now, 3 and 4 a step ago, 5 is too long ago"
    assert state.extra["used_at"][9] == 8


@pytest.mark.slow
def test_bfloat16_is_near_float32_and_keeps_its_gradients_in_float32(exact):
    rounded = gradients(dataclasses.replace(LOSSES, compute_dtype="bfloat16"))
    for name, value in rounded[1].items():
        assert np.isfinite(value), name
    assert rounded[1]["loss"] != exact[1]["loss"], "bfloat16 was asked for"
    for name in ("loss", "token_entropy_nats", "adversarial", "discriminator", "psnr_db"):
        np.testing.assert_allclose(rounded[1][name], exact[1][name], rtol=0.05, err_msg=name)
    left, right = (jax.flatten_util.ravel_pytree(side[0]["params"])[0] for side in (exact, rounded))
    assert right.dtype == jnp.float32
    assert jnp.vdot(left, right) > 0.97 * jnp.linalg.norm(left) * jnp.linalg.norm(right)


@pytest.mark.slow
def test_blocks_computed_again_give_the_same_gradients(exact):
    again = gradients(dataclasses.replace(LOSSES, remat_blocks=True))
    left, right = (jax.flatten_util.ravel_pytree(side[0]["params"])[0] for side in (exact, again))
    np.testing.assert_allclose(right, left, rtol=1e-4, atol=1e-5 * float(jnp.abs(left).max()))
    np.testing.assert_allclose(again[1]["loss"], exact[1]["loss"], rtol=1e-5)


def test_less_is_kept_where_blocks_are_computed_again():
    """What a backward pass reads, parameters and clip included; nothing is compiled."""
    video = jax.ShapeDtypeStruct(SHAPE, jnp.float32)

    def kept_bytes(remat_blocks):
        model = Magvit2(MODEL, remat_blocks)
        params = jax.eval_shape(model.init, jax.random.key(0), video)

        def backward(params, video):
            return jax.vjp(lambda params: model.apply(params, video)[0], params)[1]

        arrays = jax.tree.leaves(jax.eval_shape(backward, params, video))
        return params, sum(leaf.size * leaf.dtype.itemsize for leaf in arrays)

    (params, everything), (again, less) = kept_bytes(False), kept_bytes(True)
    assert jax.tree.structure(params) == jax.tree.structure(again)
    assert less < 0.5 * everything, (less, everything)


def test_other_types_are_refused():
    with pytest.raises(ValueError, match="compute_dtype='float16' must be 'float32' or 'bfloat16'"):
        VisualLossConfig(compute_dtype="float16")


@pytest.mark.slow
def test_the_perceptual_term_adds_its_weight(tmp_path, exact):
    rng, tensors, inputs = np.random.default_rng(0), {}, 3
    for index in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28):
        tensors[f"features.{index}.weight"] = rng.normal(size=(2, inputs, 3, 3))
        tensors[f"features.{index}.bias"] = rng.normal(size=2)
        inputs = 2
    tensors |= {f"lin{tap}.weight": rng.random((1, 2, 1, 1)) for tap in range(5)}
    path = tmp_path / "vgg.safetensors"
    save_file({name: value.astype(np.float32) for name, value in tensors.items()}, path)
    config = PerceptualConfig(files=(str(path),), weight=0.3)
    losses = dataclasses.replace(LOSSES, perceptual=config, discriminator=None)
    _, measures = gradients(losses)
    alone = exact[1]["loss"] - LOSSES.adversarial.generator_weight * exact[1]["adversarial"]
    added = 0.3 * measures["perceptual"]
    assert added > 0
    np.testing.assert_allclose(measures["loss"], alone + added, rtol=1e-5)

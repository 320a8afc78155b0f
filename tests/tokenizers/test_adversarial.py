import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poet.tokenizers import adversarial
from poet.tokenizers.adversarial import AdversarialConfig

LOG_2 = float(np.log(2.0))


def test_losses_of_a_discriminator_that_knows_nothing_and_of_a_sure_one():
    zero, sure = jnp.zeros(4), jnp.full(4, 30.0)
    assert float(adversarial.generator_loss(zero)) == pytest.approx(LOG_2)
    assert float(adversarial.discriminator_loss(zero, zero)) == pytest.approx(2 * LOG_2)
    assert float(adversarial.discriminator_loss(sure, -sure)) == pytest.approx(0.0, abs=1e-6)
    # softplus(30) is 30: the tokenizer's loss grows in a straight line, its gradient stays.
    assert float(adversarial.generator_loss(-sure)) == pytest.approx(30.0)


def test_slope_penalty_by_hand():
    """The logit 3 a + 4 b of a clip of one pixel has the slope (3, 4, 0), squared length 25."""
    weights = jnp.array([3.0, 4.0, 0.0]).reshape(1, 1, 1, 1, 3)
    clips = jnp.arange(9.0).reshape(3, 1, 1, 1, 3)

    def logits_of(video):
        return jnp.sum(video * weights, axis=(1, 2, 3, 4))

    assert float(adversarial.slope_penalty(logits_of, clips)) == pytest.approx(25.0)
    # Of the square of that logit it is (2 logit)^2 * 25: logits 4, 25, 46.
    penalty = adversarial.slope_penalty(lambda video: logits_of(video) ** 2, clips)
    assert float(penalty) == pytest.approx(np.mean([64.0, 2500.0, 8464.0]) * 25)


def test_running_means_move_before_they_are_used_and_carry_no_gradient():
    means = {"real": jnp.float32(1.0), "fake": jnp.float32(-1.0)}
    real, fake = jnp.array([2.0, 4.0]), jnp.array([0.0, -2.0])
    moved = adversarial.moved_means(means, real, fake, 0.9)
    assert float(moved["real"]) == pytest.approx(0.9 * 1 + 0.1 * 3)
    assert float(moved["fake"]) == pytest.approx(-1.0)
    grad = jax.grad(lambda r: adversarial.moved_means(means, r, fake, 0.9)["real"])(real)
    np.testing.assert_array_equal(grad, 0.0)


def test_lecam_by_hand():
    """Real logits 2 and -3 over a fake mean of -1: 3 and nothing; fakes 0 and 2 under 1: 1, 0."""
    means = {"real": jnp.float32(1.0), "fake": jnp.float32(-1.0)}
    penalty = adversarial.lecam_penalty(means, jnp.array([2.0, -3.0]), jnp.array([0.0, 2.0]))
    assert float(penalty) == pytest.approx((9 + 0) / 2 + (1 + 0) / 2)


@pytest.mark.parametrize("fields", [{"r1_weight": -1.0}, {"r1_period": 0}, {"lecam_decay": 1.0}])
def test_refusals(fields):
    with pytest.raises(ValueError, match="expected weights of 0 or more, r1_period of at least 1"):
        AdversarialConfig(**fields)

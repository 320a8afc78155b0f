import jax
import numpy as np
import pytest
import tiny_lm

from poet.evals import condition_swap
from poet.tokens import sequence


def batch_of(name, count=4):
    return sequence.assemble(tiny_lm.plan_of(name), tiny_lm.random_fields(0, count))


def test_swapping_takes_the_condition_from_the_next_row_and_leaves_the_output():
    plan, batch = tiny_lm.plan_of("image_to_video"), batch_of("image_to_video")
    whole = condition_swap._swapped(plan, batch, condition_swap.WHOLE)
    first = plan.prefix_length
    np.testing.assert_array_equal(
        whole["decoder_input_tokens"][:, :first],
        np.roll(batch["decoder_input_tokens"][:, :first], 1, axis=0),
    )
    np.testing.assert_array_equal(whole["text_ids"], np.roll(batch["text_ids"], 1, axis=0))
    for name in ("decoder_input_tokens", "decoder_target_tokens"):
        np.testing.assert_array_equal(whole[name][:, first:], batch[name][:, first:])
    text = condition_swap._swapped(plan, batch, "text_ids")
    np.testing.assert_array_equal(text["decoder_input_tokens"], batch["decoder_input_tokens"])
    assert condition_swap._parts(plan) == ["everything", "text_ids", "visual"]
    assert condition_swap._parts(tiny_lm.plan_of("unconditional")) == []


def test_entropy_by_hand():
    """Two codes, one three times as often: 0.5623 nats; sound of one code only: 0."""
    plan = tiny_lm.plan_of("text_to_video_with_sound")
    fields = tiny_lm.random_fields(0, 4)
    fields["visual"] = np.array([1, 2, 1, 1])[:, None, None, None] * np.ones((4, 5, 1, 2), int)
    fields["audio"] = np.ones_like(fields["audio"])
    found = condition_swap._entropy(plan, sequence.assemble(plan, fields))
    want = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert found == pytest.approx(want * 10 / 18)  # 10 visual and 8 audio codes


def test_loss_leaves_delimiters_out():
    plan, batch = tiny_lm.plan_of("text_to_video"), batch_of("text_to_video", 2)
    params = tiny_lm.lively_params()
    got = float(condition_swap._loss_of(tiny_lm.CONFIG, plan)(params, batch))
    from poet.models.prefix_lm import PrefixLM

    apply = jax.jit(
        lambda p, b: PrefixLM(tiny_lm.CONFIG).apply({"params": p}, plan, b, method="loss")[1]
    )
    measures = apply(params, batch)
    assert got == pytest.approx(float(measures["nats_visual"]), rel=1e-6)
    assert abs(got - float(measures["loss_nats"])) > 1e-3


@pytest.mark.parametrize(
    ("nats", "swapped", "listens"), [(3.0, 3.1, True), (3.0, 3.05, False), (0.5, 0.56, True)]
)
def test_listening_is_a_tenth_of_a_nat_or_a_tenth(nats, swapped, listens):
    row = condition_swap.Row(
        task="t", part="visual", nats=nats, entropy=4.0, swapped=swapped, num_examples=8
    )
    assert row.listens == listens
    line = condition_swap.lines([row])[-1]
    assert line == f"| t | visual | {nats:.3f} | 4.000 | {swapped:.3f} | {swapped - nats:+.3f} |"

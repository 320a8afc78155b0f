"""Measures of several batches as one; the whole path is in tests/main/test_evaluate_checkpoint."""

import jax.numpy as jnp
import pytest

from poet.evals.teacher_forced import TeacherForced
from poet.train.held_out import means_by_part


def test_means_are_over_tokens():
    """Of 30 tokens at 1 nat and 10 at 3: 1.5. The second batch has no sound."""

    def sums(nats, correct, num_tokens):
        return {
            "nats": jnp.float32(nats),
            "correct": jnp.float32(correct),
            "num_tokens": jnp.float32(num_tokens),
        }

    batches = [
        {"all": sums(30, 15, 30), "visual": sums(20, 10, 25), "audio_0": sums(10, 5, 5)},
        {"all": sums(30, 5, 10), "visual": sums(30, 5, 10)},
        {"all": sums(0, 0, 0), "special": sums(0, 0, 0)},
    ]
    assert means_by_part(batches) == {
        "all": {"nats": 1.5, "accuracy": 0.5, "num_tokens": 40},
        "visual": {"nats": 50 / 35, "accuracy": 15 / 35, "num_tokens": 35},
        "audio_0": {"nats": 2.0, "accuracy": 1.0, "num_tokens": 5},
    }
    assert means_by_part(batches[2:]) == {} == means_by_part([])


def test_settings_that_do_not_hold_together():
    with pytest.raises(ValueError, match=r"splits is a list of names, .* \('test',\)"):
        TeacherForced(splits="test")
    with pytest.raises(ValueError, match="num_examples=0 must be 1 or more"):
        TeacherForced(num_examples=0)

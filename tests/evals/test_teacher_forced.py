"""Measures of several batches as one; the whole path is in tests/main/test_evaluate_checkpoint."""

import jax.numpy as jnp
import pytest

from poet.evals.teacher_forced import TeacherForced
from poet.train.lm_program import token_means


def test_means_are_over_tokens():
    """Of 30 tokens at 1 nat and 10 at 3: 1.5."""
    batches = [
        {"loss_nats": jnp.float32(loss), "accuracy": jnp.float32(0.5), "num_tokens": jnp.float32(n)}
        for loss, n in ((1.0, 30), (3.0, 10), (0.0, 0))
    ]
    assert token_means(batches) == {"loss_nats": 1.5, "accuracy": 0.5, "num_tokens": 40}
    assert token_means(batches[2:]) == {} == token_means([])


def test_settings_that_do_not_hold_together():
    with pytest.raises(ValueError, match=r"splits is a list of names, .* \('test',\)"):
        TeacherForced(splits="test")
    with pytest.raises(ValueError, match="num_examples=0 must be 1 or more"):
        TeacherForced(num_examples=0)

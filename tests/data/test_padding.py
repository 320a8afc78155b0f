import numpy as np
import pytest

from poet.data import batches, groups, padding, registry


def test_first_fit_by_hand():
    # 6+4, 7+3, 5+5 fill three rows of ten.
    assert padding._first_fit([6, 7, 4, 5, 3, 5], 10) == 3
    assert padding._first_fit([6, 6, 6], 10) == 3


def test_groups_have_none_where_the_others_do(dataset, sizes, text_tokenizer, pretrain):
    """Also text slots count as filled: short captions are filled up by the pad vector."""
    config = groups.AgdConfig(batch_tokens=1200)
    agd = batches.AgdBatches(dataset, pretrain, sizes, text_tokenizer, config)
    found = padding.measure(agd, num_steps=300)
    assert found.groups == 0
    assert 0 < found.packed < found.padded < 1
    assert found.lengths["poet_unconditional"] == 25
    assert "padding inside groups      0.00%" in padding.lines(found)


def test_shares_by_hand(dataset, sizes, text_tokenizer, pretrain):
    """One task of 25 tokens: blocks of 32 waste 7 of 32, nothing else wastes anything."""
    shared = [(registry.get("poet_unconditional"), 1.0)]
    agd = batches.AgdBatches(
        dataset, shared, sizes, text_tokenizer, groups.AgdConfig(batch_tokens=100)
    )
    found = padding.measure(agd, num_steps=5, block=32)
    shares = (found.groups, found.alignment, found.padded, found.packed)
    np.testing.assert_allclose(shares, (0, 7 / 32, 0, 0))
    assert found.alignment == pytest.approx(0.21875)

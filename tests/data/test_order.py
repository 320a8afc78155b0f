import numpy as np
import pytest

from poet.data import order

GOLDEN_INDICES = [9, 68, 57, 96, 2, 59, 70, 20]
GOLDEN_DRAWS = [0.4805629556153731, 0.3684018787607234, 0.018529201272373563]


@pytest.mark.parametrize("num_items", [1, 2, 3, 5, 64, 65, 1000, 1025])
def test_every_epoch_visits_every_item_once(num_items):
    items = order.index_at(7, "s", np.arange(3 * num_items), num_items).reshape(3, num_items)
    np.testing.assert_array_equal(np.sort(items, axis=1), np.tile(np.arange(num_items), (3, 1)))


def test_epochs_streams_and_seeds_have_orders_of_their_own():
    positions = np.arange(500)
    orders = [
        order.index_at(0, "a", positions, 500),
        order.index_at(0, "a", positions + 500, 500),
        order.index_at(0, "b", positions, 500),
        order.index_at(1, "a", positions, 500),
        positions,
    ]
    for i, one in enumerate(orders):
        for other in orders[:i]:
            # Two unrelated orders agree at one place on average.
            assert np.count_nonzero(one == other) < 12


def test_a_position_alone_is_the_same_as_in_a_row():
    row = order.index_at(3, "s", np.arange(90), 41)
    assert [int(order.index_at(3, "s", at, 41)) for at in range(90)] == row.tolist()


def test_far_positions_cost_no_replay():
    far = order.index_at(3, "s", np.arange(10**15, 10**15 + 4), 270_000_000)
    assert ((far >= 0) & (far < 270_000_000)).all() and len(set(far.tolist())) == 4


def test_the_numbers_do_not_move():
    # A resumed run must find the order it left, whatever was updated meanwhile.
    assert order.index_at(42, "stream", np.arange(8), 100).tolist() == GOLDEN_INDICES
    np.testing.assert_allclose(order.uniform_at(42, "stream", [0, 1, 2]), GOLDEN_DRAWS, rtol=0)


def test_orders_are_even():
    # Where item 0 lands over many epochs: uniform over 16 places (chi-squared, 15 degrees).
    items = order.index_at(5, "s", np.arange(16 * 2000), 16).reshape(2000, 16)
    counts = np.bincount(np.argmax(items == 0, axis=1), minlength=16)
    assert ((counts - 125) ** 2 / 125).sum() < 38


def test_draws_are_uniform():
    draws = order.uniform_at(1, "s", np.arange(100_000))
    assert 0 <= draws.min() and draws.max() < 1
    np.testing.assert_allclose(np.histogram(draws, 10, (0, 1))[0] / 1e5, 0.1, atol=0.004)


def test_refuses_no_items_and_negative_positions():
    with pytest.raises(ValueError, match="at least one item, got 0 items"):
        order.index_at(0, "s", [0], 0)
    with pytest.raises(ValueError, match="positions from 0 on"):
        order.index_at(0, "s", [-1], 5)

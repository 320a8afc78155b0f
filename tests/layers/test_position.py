import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from poet.layers import position


def test_scores_depend_on_distance_only(key):
    q, k = jax.random.normal(key, (2, 1, 1, 1, 8))
    table = position.rotation_table(20, 8)

    def score(i, j):
        a, b = position.rotate(q, table[i : i + 1]), position.rotate(k, table[j : j + 1])
        return float(jnp.vdot(a, b))

    np.testing.assert_allclose(score(3, 1), score(12, 10), atol=1e-5)
    assert abs(score(3, 1) - score(3, 2)) > 1e-4


def test_position_zero_turns_nothing(key):
    x = jax.random.normal(key, (1, 1, 2, 8))
    np.testing.assert_array_equal(position.rotate(x, position.rotation_table(1, 8)), x)


def test_rotation_keeps_lengths(key):
    x = jax.random.normal(key, (2, 5, 3, 8))
    y = position.rotate(x, position.rotation_table(5, 8))
    norm = jnp.linalg.norm
    np.testing.assert_allclose(norm(x, axis=-1), norm(y, axis=-1), rtol=1e-5)


def test_head_must_be_even():
    with pytest.raises(ValueError, match="head_dim=7 must be even"):
        position.rotation_table(4, 7)


def test_attributes_add_up(key):
    layer = position.AttributeEmbedding((("t", 3), ("w", 2)), dim=4)
    values = {"t": np.array([0, 2, 2]), "w": np.array([1, 0, 1])}
    params = meta.unbox(layer.init(key, values))
    tables = params["params"]
    want = tables["t"][values["t"]] + tables["w"][values["w"]]
    np.testing.assert_allclose(layer.apply(params, values), want)


def test_attribute_outside_its_table(key):
    layer = position.AttributeEmbedding((("t", 3),), dim=4)
    with pytest.raises(ValueError, match="has t=2, the model has rows for values below 2"):
        layer.init(key, {"t": np.array([0, 3])})


def test_waves_by_hand():
    rows = position.wave_rows(5, 2)  # one wave, 4 rows long
    root = np.sqrt(2)
    np.testing.assert_allclose(
        rows, root * np.array([[0, 0], [1, 0], [0, -1], [-1, 0], [0, 1]]), atol=1e-6
    )


def test_waves_make_neighbours_alike_and_leave_names_alone(key):
    layer = position.AttributeEmbedding((("t", 40), ("segment", 40)), dim=64, waves=("t",))
    values = {"t": np.arange(40), "segment": np.arange(40)}
    tables = meta.unbox(layer.init(key, values))["params"]

    def likeness(table, distance):
        rows = np.asarray(table)[1:]
        return np.mean(np.sum(rows[distance:] * rows[:-distance], -1)) / np.mean(
            np.sum(rows**2, -1)
        )

    assert not np.asarray(tables["t"][0]).any()
    assert likeness(tables["t"], 1) > likeness(tables["t"], 3) > likeness(tables["t"], 12)
    assert likeness(tables["t"], 1) > 0.7 and abs(likeness(tables["segment"], 1)) < 0.2
    assert position.wave_rows(7, 5).shape == (7, 5)

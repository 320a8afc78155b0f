import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from jax.interpreters import partial_eval

from poet.layers import position
from poet.models.config import REMAT_POLICIES


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


def test_a_tpus_way_of_rotating_gives_the_same_numbers(key):
    """Halves change places in a product with 0, 1 and -1: no digit is lost, in bfloat16 either."""
    x, table = jax.random.normal(key, (2, 5, 3, 8), jnp.bfloat16), position.rotation_table(5, 8)
    want = position.rotate(x, table)
    np.testing.assert_array_equal(position._rotate_by_product(x, table), want)


@pytest.mark.parametrize("name", ["dots", "dots_no_batch"])
def test_policies_keep_what_was_rotated_not_the_product(key, name):
    """Half the bytes, and nothing of the rotation is computed again."""
    x, table = jax.random.normal(key, (2, 5, 3, 8), jnp.bfloat16), position.rotation_table(5, 8)

    def loss(x):
        return jnp.sum(jnp.sin(position._rotate_by_product(jnp.cos(x), table)))

    jaxpr = jax.make_jaxpr(jax.grad(jax.checkpoint(loss, policy=REMAT_POLICIES[name])))(x).jaxpr
    jaxpr, _ = partial_eval.dce_jaxpr(jaxpr, [True])
    (backward,) = (e for e in jaxpr.eqns if "remat" in e.primitive.name)
    kept = [v.aval.dtype for v in backward.invars if v.aval.shape == x.shape]
    assert kept and set(kept) == {jnp.dtype(jnp.bfloat16)}
    products = [e for e in backward.params["jaxpr"].eqns if e.primitive.name == "dot_general"]
    assert len(products) == 1, "the gradient's own"


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


def test_sinusoids_by_hand():
    rows = position.sinusoidal_table(5, 2)  # one wave, 4 rows long
    root = np.sqrt(2)
    np.testing.assert_allclose(
        rows, root * np.array([[0, 0], [1, 0], [0, -1], [-1, 0], [0, 1]]), atol=1e-6
    )
    assert position.sinusoidal_table(7, 5).shape == (7, 5)


def test_neighbours_start_alike_names_and_axes_do_not(key):
    attributes = ("h", "w", "segment")
    layer = position.AttributeEmbedding(
        tuple((name, 40) for name in attributes), dim=64, sinusoidal=("h", "w")
    )
    tables = meta.unbox(layer.init(key, {name: np.arange(40) for name in attributes}))["params"]
    h, w, segment = (np.asarray(tables[name])[1:] for name in attributes)

    def likeness(rows, others):
        return np.mean(np.sum(rows * others, -1)) / np.mean(np.sum(rows**2, -1))

    near, farther, far = (likeness(h[n:], h[:-n]) for n in (1, 3, 12))
    assert near > farther > far and near > 0.7
    assert abs(likeness(segment[1:], segment[:-1])) < 0.2
    assert abs(likeness(h, w)) < 0.5
    assert not np.asarray(tables["h"][0]).any()


def test_sinusoidal_must_name_attributes(key):
    layer = position.AttributeEmbedding((("t", 3),), dim=4, sinusoidal=("time",))
    with pytest.raises(ValueError, match=r"sinusoidal=\['time'\] are no attributes"):
        layer.init(key, {"t": np.array([0])})

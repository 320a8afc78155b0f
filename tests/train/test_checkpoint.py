"""Checkpoints: exact, whole or absent, readable without the program that wrote them."""

import gc
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from poet.train import checkpoint, state


def make_state(step, width=8):
    params = {"a": {"kernel": jnp.full((width, 4), 0.1 * step)}, "b": jnp.arange(3.0)}
    made = state.create(params, optax.adam(1e-3).init(params), {"codes": jnp.ones((2, 2))})
    return made.replace(step=jnp.asarray(step, jnp.int32))


def save(folder, *steps):
    with checkpoint.Checkpoints(folder) as checkpoints:
        for step in steps:
            checkpoints.save(make_state(step), {"words": f"step {step}"})


def test_round_trip_is_exact_and_keeps_the_newest(tmp_path):
    save(tmp_path, 1, 2, 3)
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        read = checkpoints.restore_latest(make_state(0))
    jax.tree.map(np.testing.assert_array_equal, read, make_state(3))
    assert jax.tree.structure(read) == jax.tree.structure(make_state(3))
    assert checkpoint.newest_step(tmp_path) == 3
    assert checkpoint.read_meta(tmp_path) == {"words": "step 3", "step": 3}
    assert checkpoint.read_meta(tmp_path, step=2)["words"] == "step 2"


def test_a_state_may_be_donated_right_after_save(tmp_path):
    change = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    now, want = make_state(5), make_state(5)
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(now, {})
        for _ in range(5):
            now = change(now)
        checkpoints.wait()
        read = checkpoints.restore_latest(make_state(0))
    jax.tree.map(np.testing.assert_array_equal, read, want)


def test_params_load_alone(tmp_path):
    save(tmp_path, 4)
    params = checkpoint.load_params(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, params, make_state(4).params)


def test_averages_lie_beside_the_parameters(tmp_path):
    """They come back, load alone, and leave what was not averaged as it is."""
    made = make_state(4)
    made = made.replace(ema={"a": jax.tree.map(lambda leaf: leaf + 1, made.params["a"])})
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(made, {})
        checkpoints.wait()
        read = checkpoints.restore_latest(made.replace(step=jnp.asarray(0, jnp.int32)))
        without = checkpoints.restore_latest(make_state(0))
    jax.tree.map(np.testing.assert_array_equal, read, made)
    assert without.ema == {}
    averaged = checkpoint.load_params(tmp_path, averaged=True)
    jax.tree.map(np.testing.assert_array_equal, averaged, made.params | made.ema)
    plain = checkpoint.load_params(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, plain, made.params)


def test_an_average_begins_where_a_checkpoint_has_none(tmp_path):
    save(tmp_path, 2)
    like = make_state(0)
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        read = checkpoints.restore_latest(like.replace(ema={"a": like.params["a"]}))
    want = make_state(2).params["a"]
    jax.tree.map(np.testing.assert_array_equal, read.ema, {"a": want})
    # A step donates both: they may not be one array.
    jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)(read)
    with pytest.raises(ValueError, match="Step 2 of .* has no averaged weights; train with an Up"):
        checkpoint.load_params(tmp_path, averaged=True)


def test_a_fingerprint_is_that_of_the_parameters_files(tmp_path):
    save(tmp_path / "a", 1, 2)
    first, second = (checkpoint.fingerprint(tmp_path / "a", step) for step in (1, 2))
    assert first != second == checkpoint.fingerprint(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    assert checkpoint.fingerprint(tmp_path / "copy") == second


def damage(folder, step, part, how):
    """Truncates or removes the files of one part (its arrays' data, or its only file)."""
    for path in sorted((folder / checkpoint.FOLDER / str(step) / part).rglob("*")):
        if path.is_file() and (path.parent.name == "d" or part in ("meta", "metrics")):
            path.write_bytes(path.read_bytes()[:5]) if how == "truncate" else path.unlink()


# Orbax leaves reads of a damaged step unfinished.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("how", ["truncate", "remove"])
@pytest.mark.parametrize("part", ["params", "rest", "meta"])
def test_a_damaged_newest_step_falls_back(tmp_path, part, how):
    save(tmp_path, 1, 2)
    damage(tmp_path, 2, part, how)
    if part == "meta":
        assert checkpoint.read_meta(tmp_path) == {"words": "step 1", "step": 1}
        with pytest.raises(ValueError, match="The facts of step 2 .* cannot be read"):
            checkpoint.read_meta(tmp_path, 2)
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        read = checkpoints.restore_latest(make_state(0))
        assert int(read.step) == 1
        checkpoints.save(make_state(2), {"again": True})
    gc.collect()
    assert checkpoint.read_meta(tmp_path) == {"again": True, "step": 2}


@pytest.mark.parametrize("how", ["truncate", "remove"])
def test_a_step_whose_loss_cannot_be_read_goes_on(tmp_path, how):
    """The loss only chooses which steps are kept."""
    with checkpoint.Checkpoints(tmp_path, keeps_best=True) as checkpoints:
        for step, loss in ((1, 2.0), (2, 3.0)):
            checkpoints.save(make_state(step), {}, loss)
    damage(tmp_path, 2, "metrics", how)
    with checkpoint.Checkpoints(tmp_path, keeps_best=True) as checkpoints:
        assert int(checkpoints.restore_latest(make_state(0)).step) in (1, 2)
        assert checkpoints.best_loss() == 2.0
        checkpoints.save(make_state(3), {}, 1.0)
    assert checkpoint.best_step(tmp_path) == 3


def test_facts_of_no_step_are_an_error(tmp_path):
    save(tmp_path, 1)
    damage(tmp_path, 1, "meta", "truncate")
    with pytest.raises(ValueError, match="The facts of step 1 .* Take an earlier step, or train"):
        checkpoint.read_meta(tmp_path)
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(ValueError, match="No checkpoint under .* The facts of step 1"):
            checkpoints.restore_latest(make_state(0))


@pytest.mark.parametrize("error", [ConnectionResetError("reset"), TimeoutError("no answer")])
def test_a_step_that_could_not_be_reached_is_not_set_aside(tmp_path, monkeypatch, error):
    """The storage may answer the next start, and the step be as good as ever."""

    def unreachable(*_):
        raise error

    save(tmp_path, 1, 2)
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        monkeypatch.setattr(checkpoint, "shape_difference", unreachable)
        with pytest.raises(type(error)):
            checkpoints.restore_latest(make_state(0))
        monkeypatch.undo()
        assert int(checkpoints.restore_latest(make_state(0)).step) == 2


def test_a_half_written_step_is_not_a_checkpoint(tmp_path):
    save(tmp_path, 1)
    half = tmp_path / checkpoint.FOLDER / "2.orbax-checkpoint-tmp"
    (half / "params").mkdir(parents=True)
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        assert int(checkpoints.restore_latest(make_state(0)).step) == 1
    assert checkpoint.newest_step(tmp_path) == 1


def test_another_model_is_refused(tmp_path):
    save(tmp_path, 1)
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(
            ValueError,
            match="fits this model .*a/kernel is .8, 4. in the checkpoint and .16, 4. in",
        ):
            checkpoints.restore_latest(make_state(0, width=16))
    assert checkpoint.newest_step(tmp_path) == 1


def test_some_of_many_shapes_are_named(tmp_path):
    save(tmp_path, 1)
    params = make_state(1).params
    assert checkpoint.shape_difference(tmp_path, 1, params) == ""
    five = {f"c{number}": jnp.zeros(2) for number in range(5)}
    said = checkpoint.shape_difference(tmp_path, 1, params | five)
    assert said.startswith("parameter c0 is absent in the checkpoint and (2,) in the model, c1 is")
    assert said.endswith("c4 is absent in the checkpoint and (2,) in the model")
    said = checkpoint.shape_difference(tmp_path, 1, five | {"b": jnp.zeros(4)})
    assert said.startswith("parameter a/kernel is (8, 4) in the checkpoint and absent in the model")
    assert "b is (3,) in the checkpoint and (4,) in the model" in said
    assert said.count(" in the checkpoint ") == 5 and said.endswith(", and 2 more")


def test_nothing_there_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="holds no checkpoint; expected a MODEL_DIR"):
        checkpoint.load_params(tmp_path / "absent")


def test_an_unwritable_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match="Checkpoints cannot be written to"):
        checkpoint.Checkpoints(tmp_path / "file")

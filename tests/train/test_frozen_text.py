"""A published text encoder inside the training step: frozen and sharded, or trained along."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny_t5 import config_of, tensors_of

from poet.models import t5_weights
from poet.models.config import PrefixLMConfig
from poet.tokens.vocabulary import Vocabulary
from poet.train import checkpoint, lm, loop, metrics, partitioning
from poet.train.lm_program import Evaluation
from poet.train.optimizer import OptimizerConfig
from poet.train.partitioning import MeshConfig

# More rows than the byte tokenizer has ids, as published encoders have.
NUM_ROWS = 264


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("t5")
    (folder / "config.json").write_text(json.dumps(config_of("gated", vocab_size=NUM_ROWS)))
    save_file(tensors_of("gated", vocab_size=NUM_ROWS), folder / "model.safetensors")
    return str(folder)


def train(folder, dataset, weights, **changes):
    model = PrefixLMConfig(
        vocabulary=Vocabulary(num_text=NUM_ROWS),
        num_layers=1,
        d_model=32,
        num_heads=2,
        head_dim=16,
        mlp_dim=32,
        text_slots=16,
        text=t5_weights.read_config(weights),
    )
    steps = loop.LoopConfig(model_dir=str(folder), num_steps=3, save_period=3, log_period=1)
    run = lm.LMRun(
        data_dir=str(dataset),
        mixture_or_task_name="poet_text_to_video",
        model=model,
        loop=steps,
        batch_tokens=8 * 43,  # Eight rows, on one device as on four.
        text_weights=weights,
        text_is_frozen=True,
        optimizer=OptimizerConfig(warmup_steps=0, learning_rate=1e-2),
        evaluation=Evaluation(num_examples=0),
        mesh=MeshConfig(num_devices=1),
    )
    return lm.train(dataclasses.replace(run, **changes))


@pytest.fixture(scope="module")
def frozen(tmp_path_factory, small_dataset, weights):
    folder = tmp_path_factory.mktemp("frozen")
    return train(folder, small_dataset, weights), folder


def losses(folder):
    return [row["loss_nats"] for row in metrics.read_metrics(folder) if row["kind"] == "train"]


def test_a_frozen_encoder_stays_and_the_rest_moves(frozen, weights):
    state, folder = frozen
    read = t5_weights.read_params(weights)
    jax.tree.map(np.testing.assert_array_equal, state.params["text_encoder"], read)
    found = losses(folder)
    assert len(found) == 3 and found[-1] < found[0]
    meta = checkpoint.read_meta(folder)
    assert meta["text_is_frozen"] and lm.model_from_meta(meta).text.num_ids == NUM_ROWS
    saved = checkpoint.load_params(folder)["text_encoder"]
    jax.tree.map(np.testing.assert_array_equal, saved, read)


def test_the_optimizer_does_not_know_it(frozen):
    paths = [
        partitioning.path_names(path)
        for path, _ in jax.tree_util.tree_leaves_with_path(frozen[0].opt_state)
    ]
    assert any("text_projection" in path for path in paths)
    assert not any("text_encoder" in path for path in paths)


@pytest.mark.slow
def test_four_devices_hold_parts_of_it_and_give_the_same_losses(
    frozen, small_dataset, weights, tmp_path
):
    state = train(tmp_path, small_dataset, weights, mesh=MeshConfig(num_devices=4))
    kernel = state.params["text_encoder"]["block_0"]["mlp"]["up"]["kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // 4
    np.testing.assert_allclose(losses(tmp_path), losses(frozen[1]), rtol=1e-4)


@pytest.mark.slow
def test_a_small_one_can_train_along(frozen, small_dataset, weights, tmp_path):
    state = train(tmp_path, small_dataset, weights, text_is_frozen=False)
    # The same start: the first loss is before any step.
    assert losses(tmp_path)[0] == pytest.approx(losses(frozen[1])[0], rel=1e-5)
    moved = state.params["text_encoder"]["block_0"]["mlp"]["up"]["kernel"]
    still = frozen[0].params["text_encoder"]["block_0"]["mlp"]["up"]["kernel"]
    assert np.abs(np.asarray(moved) - np.asarray(still)).max() > 1e-3


def test_freezing_is_not_changed_on_the_way(frozen, small_dataset, weights):
    with pytest.raises(ValueError, match="differs in whether the text encoder is frozen"):
        train(frozen[1], small_dataset, weights, text_is_frozen=False)

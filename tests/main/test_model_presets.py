"""The sizes of the model files, from shapes alone: nothing of them is ever in memory."""

import pathlib

import gin
import jax
import pytest
from flax.core import meta

from poet.main import commands
from poet.models import counting
from poet.models.config import PrefixLMConfig
from poet.train import partitioning
from poet.train.optimizer import OptimizerConfig, make_optimizer
from poet.train.partitioning import MeshConfig

ROOT = pathlib.Path(__file__).parents[2]

# name -> parameters of the blocks (the size a model is called by) and of its embedding, which its
# head has once more. A layer has 4 d^2 (less with grouped queries) + 3 d mlp, two norms of d and
# two of a head; the table 256 + 262,144 + 4 x 1,024 + 32,128 rows. tests/models/test_counting.py
# works one out by hand.
SIZES = {
    "tiny": (2 * (4 * 32**2 + 3 * 32 * 64 + 2 * 32 + 2 * 16) + 32, 298_624 * 32),
    "demo": (4 * (3 * 128**2 + 3 * 128 * 384 + 2 * 128 + 2 * 32) + 128, 298_624 * 128),
    "300m": (298_897_408, 305_790_976),
    "1b": (1_011_964_928, 611_581_952),
    "8b": (8_032_434_176, 1_223_163_904),
}


@pytest.fixture(autouse=True)
def clean_gin():
    yield
    gin.clear_config()


def preset(name):
    commands.read_gin([f"gin/models/{name}.gin"], [])
    return gin.get_configurable(PrefixLMConfig)()


@pytest.mark.parametrize("name", SIZES)
def test_parameters_by_part(name):
    counts = counting.count_by_part(counting.parameter_shapes(preset(name)))
    blocks, table = SIZES[name]
    shared_bits = 18 * 128 if name == "demo" else 0
    assert counts["blocks"] == blocks
    assert counts["embedding"] == counts["head"] == table + shared_bits
    assert "other" not in counts


@pytest.mark.parametrize(
    ("name", "billions", "shape"),
    [("300m", 0.302, (24, 1024, 16)), ("1b", 1.01, (20, 2048, 16)), ("8b", 8.05, (40, 4096, 32))],
)
def test_the_papers_sizes(name, billions, shape):
    """Within 1.1 %: hidden widths are the multiple of 128 nearest 8/3 of the model's."""
    config = preset(name)
    assert (config.num_layers, config.d_model, config.num_heads) == shape
    assert config.num_heads * config.head_dim == config.d_model
    assert config.mlp_dim == 128 * round(8 / 3 * config.d_model / 128)
    assert abs(SIZES[name][0] / 1e9 / billions - 1) < 0.011
    assert config.text.d_model == 2048 and config.text_slots == 64
    assert config.dtype == "bfloat16"


@pytest.mark.parametrize("name", SIZES)
def test_the_page_states_these_sizes(name):
    """| file | layers | d | heads | hidden | ... of docs/training.md."""
    config, page = preset(name), (ROOT / "docs" / "training.md").read_text()
    (row,) = (line for line in page.splitlines() if line.startswith(f"| `gin/models/{name}.gin`"))
    cells = [cell.strip().replace(",", "") for cell in row.strip("|").split("|")]
    heads = f"{config.num_heads} x {config.head_dim}"
    assert cells[1:5] == [str(config.num_layers), str(config.d_model), heads, str(config.mlp_dim)]
    assert cells[8] == config.dtype and cells[9].strip("`") == config.remat_policy


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor", "muon"])
def test_nothing_large_of_the_optimizer_is_replicated(optimizer):
    """Of 8b on 2 x 2 devices; what stays whole is narrower than a row of a table."""
    shapes = counting.parameter_shapes(preset("8b"))
    params = meta.unbox(shapes)
    mesh = partitioning.make_mesh(MeshConfig(fsdp=2, tensor=2))
    shardings = partitioning.param_shardings(shapes, mesh)
    tx = make_optimizer(OptimizerConfig(name=optimizer), 100)
    state = jax.eval_shape(tx.init, params)
    found = partitioning.opt_state_shardings(state, params, shardings, mesh)
    pairs = zip(jax.tree.leaves(state), jax.tree.leaves(found), strict=True)
    whole = [leaf.size for leaf, sharding in pairs if sharding.is_fully_replicated]
    assert max(whole) <= 40 * 128
    numbers = sum(leaf.size for leaf in jax.tree.leaves(state))
    share = numbers / sum(leaf.size for leaf in jax.tree.leaves(params))
    # Two moments, a hundredth of one, and one moment for kernels with two for tables.
    low, high = {"adamw": (2.0, 2.0001), "adafactor": (0, 0.01), "muon": (1, 1.4)}[optimizer]
    assert low <= share < high

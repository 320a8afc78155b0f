"""What the pages tell a reader to type is what works."""

import json
import pathlib
import re

import gin
import pytest
from safetensors.numpy import save_file
from tiny_t5 import config_of, tensors_of

from poet.main import commands

DOCS = pathlib.Path(__file__).parents[2] / "docs"


@pytest.fixture(autouse=True)
def clean_gin():
    yield
    gin.clear_config()


@pytest.fixture(scope="module")
def t5_folder(tmp_path_factory):
    """A published encoder with its pieces, as small as it can be."""
    sentencepiece = pytest.importorskip("sentencepiece")
    folder = tmp_path_factory.mktemp("t5")
    sizes = {"vocab_size": 33_000}
    (folder / "config.json").write_text(json.dumps(config_of("gated", **sizes)))
    save_file(tensors_of("gated", **sizes), folder / "model.safetensors")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a red circle moves left"] * 9),
        model_prefix=str(folder / "spiece"),
        vocab_size=20,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return folder


def test_the_gin_file_of_the_text_page_configures_a_run(t5_folder, tmp_path):
    from poet.train import lm

    (block,) = re.findall(r"```\n(from __gin__.*?)```", (DOCS / "text.md").read_text(), re.DOTALL)
    path = tmp_path / "run.gin"
    path.write_text(block.replace("/data/t5-v1_1-xl", str(t5_folder)))
    commands.read_gin([str(path)], [])
    run = commands.call_configured(lm.LMRun)
    assert run.text_is_frozen and run.text_weights == str(t5_folder)
    assert run.model.text.head_dim == 8 and run.model.text.num_ids == 33_000
    assert run.text_tokenizer.num_slots == 64


def test_the_large_runs_take_a_published_encoder(t5_folder, tmp_path):
    from poet.train import lm

    folders = {"MODEL_DIR": tmp_path, "DATA_DIR": tmp_path, "T5_DIR": t5_folder}
    bindings = [f"{name} = '{folder}'" for name, folder in folders.items()]
    commands.read_gin(["gin/runs/pretrain.gin", "gin/models/t5.gin"], bindings)
    run = commands.call_configured(lm.LMRun)
    assert run.text_is_frozen and run.text_weights == str(t5_folder)
    assert run.model.text.head_dim == 8 and run.text_tokenizer.num_ids < 33_000


def test_files_that_the_training_page_names_are_there():
    names = set(re.findall(r"(?:gin|tools)/[\w/]+\.\w+", (DOCS / "training.md").read_text()))
    assert len(names) > 9
    assert not [name for name in names if not (DOCS.parent / name).is_file()]

"""Text as the pieces of a SentencePiece model that the test trains."""

import io
import logging
import pathlib

import numpy as np
import pytest

from poet.tokenizers.sentencepiece import SentencePieceTokenizer
from poet.train import lm

sentencepiece = pytest.importorskip("sentencepiece")


def train(path, **changes):
    """A model of 40 pieces from a few sentences, with T5's special ids."""
    words = ["a red circle moves left", "a blue square moves right", "the circle stands still"]
    settings = {"vocab_size": 40, "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(words * 20),
        model_writer=model,
        hard_vocab_limit=False,
        minloglevel=2,
        **settings | changes,
    )
    path.write_bytes(model.getvalue())
    return str(path)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    return train(tmp_path_factory.mktemp("pieces") / "spiece.model")


def test_ids_end_and_are_filled_with_pads(model_file):
    tokenizer = SentencePieceTokenizer(model_file, num_slots=30)
    ids = tokenizer.encode("a red square")
    (end,) = np.flatnonzero(ids == 1)
    assert ids.shape == (30,) and ids.dtype == np.int32
    assert (ids[:end] > 1).all() and (ids[end + 1 :] == 0).all()
    assert ids.max() < tokenizer.num_ids
    assert tokenizer.decode(ids) == "a red square"


def test_long_text_is_cut_after_a_piece_with_one_warning(model_file, caplog):
    tokenizer = SentencePieceTokenizer(model_file, num_slots=6)
    text = "a red circle moves left and a blue square moves right"
    whole = SentencePieceTokenizer(model_file, num_slots=60).encode(text)
    with caplog.at_level(logging.WARNING, logger="absl"):
        first, again = tokenizer.encode(text), tokenizer.encode(text)
    np.testing.assert_array_equal(first, [*whole[:5], 1])
    np.testing.assert_array_equal(first, again)
    assert sum("was cut to the 5 that fit" in message for message in caplog.messages) == 1
    with pytest.raises(ValueError, match="pieces but this model reads 5; shorten it by"):
        tokenizer.check_prompt(text)
    with pytest.raises(ValueError, match="The prompt is empty"):
        tokenizer.check_prompt(" ")


def test_a_checkpoint_finds_the_same_model_again(model_file, tmp_path):
    tokenizer = SentencePieceTokenizer(model_file, num_slots=8)
    facts = {"name": "SentencePieceTokenizer", "fingerprint": tokenizer.fingerprint}
    again = lm.text_tokenizer_from_meta({"text_tokenizer": facts | tokenizer.sizes})
    assert again == tokenizer and hash(again) == hash(tokenizer)
    other = train(tmp_path / "other.model", model_type="char")
    with pytest.raises(ValueError, match="use the version of Poet that trained it"):
        sizes = tokenizer.sizes | {"model_file": other}
        lm.text_tokenizer_from_meta({"text_tokenizer": facts | sizes})
    assert SentencePieceTokenizer(str(pathlib.Path(model_file).parent), num_slots=8) == tokenizer
    with pytest.raises(ValueError, match="found none; T5's is called spiece.model"):
        SentencePieceTokenizer(str(tmp_path / "absent.model"))


def test_models_that_are_none_or_number_otherwise_are_refused(model_file, tmp_path):
    broken = tmp_path / "broken.model"
    broken.write_bytes(b"no model at all")
    with pytest.raises(ValueError, match="is no whole SentencePiece model; copy it again"):
        SentencePieceTokenizer(str(broken))
    other = train(tmp_path / "bos.model", pad_id=3, bos_id=0)
    with pytest.raises(ValueError, match="has pad id 3 and end id 1; expected 0 and 1"):
        SentencePieceTokenizer(other)

"""Byte tokenizer: ids, the cut, the refusals."""

import logging

import numpy as np
import pytest

from poet.tokenizers.text import EOS_ID, ByteTokenizer


def test_ids_are_bytes_plus_three_then_end_then_pads():
    ids = ByteTokenizer(num_slots=6).encode("ab")
    np.testing.assert_array_equal(ids, [100, 101, EOS_ID, 0, 0, 0])
    assert ids.dtype == np.int32
    assert ByteTokenizer.num_ids == 259


@pytest.mark.parametrize("text", ["", "a red circle moves left", "naïve 円 🟥"])
def test_round_trip(text):
    tokenizer = ByteTokenizer()
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_long_text_is_cut_between_characters_with_one_warning(caplog):
    tokenizer = ByteTokenizer(num_slots=5)
    with caplog.at_level(logging.WARNING, logger="absl"):
        ids = tokenizer.encode("abcé")  # 5 bytes; the last character would be cut in two
        tokenizer.encode("abcdefgh")
    assert tokenizer.decode(ids) == "abc"
    np.testing.assert_array_equal(ids, [100, 101, 102, EOS_ID, 0])
    assert len([r for r in caplog.records if "was cut to the 4 that fit" in r.message]) == 1


def test_a_text_that_just_fits_is_not_cut():
    tokenizer = ByteTokenizer(num_slots=5)
    assert tokenizer.decode(tokenizer.encode("abcd")) == "abcd"
    tokenizer.check_prompt("abcd")


def test_prompt_refusals():
    tokenizer = ByteTokenizer(num_slots=5)
    with pytest.raises(ValueError, match="prompt is empty"):
        tokenizer.check_prompt("  ")
    with pytest.raises(ValueError, match="takes 6 bytes but this model reads 4; shorten it by 2"):
        tokenizer.check_prompt("abcdef")
    with pytest.raises(ValueError, match="num_slots=1 must be at least 2"):
        ByteTokenizer(num_slots=1)


def test_fingerprint_tells_slots_apart():
    assert ByteTokenizer(num_slots=8).fingerprint != ByteTokenizer(num_slots=9).fingerprint
    assert ByteTokenizer(num_slots=8).fingerprint == ByteTokenizer(num_slots=8).fingerprint

"""Byte and word tokenizers: ids, the cut, the refusals."""

import itertools
import logging
import re

import numpy as np
import pytest

from poet.shapes_world import captions, world
from poet.tokenizers.text import EOS_ID, ByteTokenizer, WordTokenizer
from poet.train.lm import TEXT_TOKENIZERS as TOKENIZERS


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


def test_words_and_marks_get_ids_whatever_their_case():
    tokenizer = WordTokenizer(num_slots=8, num_words=1000)
    red, circle, comma, stop = tokenizer.encode("red")[0], *tokenizer.encode("circle , .")[:3]
    ids = tokenizer.encode("Red circle, RED.")
    np.testing.assert_array_equal(ids, [red, circle, comma, red, stop, EOS_ID, 0, 0])
    assert ids.dtype == np.int32 and len({red, circle, comma, stop}) == 4
    assert all(3 <= i < tokenizer.num_ids == 1003 for i in (red, circle, comma, stop))
    # The ids are part of the format: other ones make every checkpoint useless.
    assert WordTokenizer(4, 307).encode("red circle").tolist() == [26, 126, 1, 0]


def test_long_text_is_cut_after_a_word_with_one_warning(caplog):
    tokenizer = WordTokenizer(num_slots=3)
    with caplog.at_level(logging.WARNING, logger="absl"):
        np.testing.assert_array_equal(tokenizer.encode("a red circle"), tokenizer.encode("a red"))
        tokenizer.encode("a red square")
    assert len([r for r in caplog.records if "3 words was cut to the 2 that fit" in r.message]) == 1


def test_prompts_of_words_are_refused_in_words():
    tokenizer = WordTokenizer(num_slots=3)
    tokenizer.check_prompt("red circle")
    with pytest.raises(ValueError, match="prompt is empty"):
        tokenizer.check_prompt(" ")
    with pytest.raises(
        ValueError, match="has 4 words and punctuation marks but this model reads 2"
    ):
        tokenizer.check_prompt("red circle, left")
    with pytest.raises(ValueError, match="num_slots=1 must be at least 2"):
        WordTokenizer(num_slots=1)
    with pytest.raises(ValueError, match="num_words=0 must be at least 1"):
        WordTokenizer(num_words=0)


def test_words_of_the_demo_do_not_collide():
    """`gin/models/demo.gin` says so: the sentences' words have ids of their own, and all fit."""
    rng, tokenizer = np.random.default_rng(0), WordTokenizer(num_slots=16, num_words=307)
    ids_of = {}
    for shape, colour, motion in itertools.product(world.SHAPES, world.COLOURS, captions.TEMPLATES):
        for speed in ("slow", "fast") if motion in world.DIRECTIONS else ("none",):
            for _ in range(20):
                sentence = captions.caption(shape, colour, motion, speed, rng)
                tokenizer.check_prompt(sentence)
                words = re.findall(r"\w+|,", sentence)
                ids_of |= dict(zip(words, tokenizer.encode(sentence).tolist(), strict=False))
    assert len(ids_of) > 35 and len(set(ids_of.values())) == len(ids_of)


def test_fingerprint_tells_kinds_and_sizes_apart():
    tokenizers = [ByteTokenizer(8), WordTokenizer(8), WordTokenizer(9), WordTokenizer(8, 9)]
    assert len({tokenizer.fingerprint for tokenizer in tokenizers}) == 4
    assert {TOKENIZERS[type(tokenizer).__name__] for tokenizer in tokenizers} == {
        ByteTokenizer,
        WordTokenizer,
    }

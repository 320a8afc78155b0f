"""Text as bytes or as words: tokenizers of small runs, with nothing to download or to learn.

Ids follow T5: 0 pad, 1 end of text, 2 unknown (never made here), then byte + 3 or word + 3.
"""

import hashlib
import re

import numpy as np
from absl import logging

from poet.typing import Int

PAD_ID, EOS_ID, UNK_ID = 0, 1, 2
_FIRST_ID = 3


class ByteTokenizer:
    """UTF-8 bytes in a fixed number of slots, closed by the end-of-text id, then pads.

    Attributes:
      num_slots: Ids a text; it holds num_slots - 1 bytes and the end.
      num_ids: 259, of which ids 0 to 2 are pad, end and unknown.
      fingerprint: Same text, same ids, exactly where this string is the same.
    """

    num_ids = _FIRST_ID + 256

    def __init__(self, num_slots: int = 64):
        if num_slots < 2:
            raise ValueError(
                f"num_slots={num_slots} must be at least 2, for one byte and the end of the text;"
                " 64 is usual."
            )
        self.num_slots = num_slots
        self._warn_of_cut = OneWarning()

    @property
    def sizes(self) -> dict[str, int]:
        """Arguments that make the same tokenizer again."""
        return {"num_slots": self.num_slots}

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"poet bytes v1, {self.num_slots} slots".encode()).hexdigest()

    def encode(self, text: str) -> Int[np.ndarray, "L"]:
        """Ids of one text; one that is too long is cut between characters, with one warning."""
        data = text.encode("utf-8")
        room = self.num_slots - 1
        if len(data) > room:
            self._warn_of_cut(text, f"{len(data)} bytes", room)
            # Decoding with "ignore" drops the bytes of a character that was cut in two.
            data = data[:room].decode("utf-8", "ignore").encode("utf-8")
        ids = np.full(self.num_slots, PAD_ID, np.int32)
        ids[: len(data)] = np.frombuffer(data, np.uint8).astype(np.int32) + _FIRST_ID
        ids[len(data)] = EOS_ID
        return ids

    def decode(self, ids: Int[np.ndarray, "L"]) -> str:
        """The text of these ids up to the end; ids that are no byte are left out."""
        ids = np.asarray(ids)
        ends = np.flatnonzero(ids == EOS_ID)
        ids = ids[: ends[0]] if len(ends) else ids
        local = ids[(ids >= _FIRST_ID) & (ids < self.num_ids)] - _FIRST_ID
        return bytes(local.astype(np.uint8)).decode("utf-8", "replace")

    def check_prompt(self, text: str) -> None:
        """Refuses what a person would rather know: an empty prompt, or one that would be cut."""
        refuse_empty(text)
        num_bytes, room = len(text.encode("utf-8")), self.num_slots - 1
        if num_bytes > room:
            raise ValueError(
                f"The prompt takes {num_bytes} bytes but this model reads {room}; shorten it by"
                f" {num_bytes - room} (letters with accents take two bytes or more)."
            )


class WordTokenizer:
    """Lower-case words and punctuation marks, each hashed to one of a fixed number of ids.

    For text encoders that are trained along: what a word means is learned at once, where bytes
    must first be read together. Words that share an id cannot be told apart, and nothing says what
    a word of no training caption means. Pretrained encoders have tokenizers of their own.

    Attributes:
      num_slots: Ids a text; it holds num_slots - 1 words and the end.
      num_words: Ids for words; more make collisions rarer.
      num_ids: num_words + 3, of which ids 0 to 2 are pad, end and unknown.
      fingerprint: Same text, same ids, exactly where this string is the same.
    """

    def __init__(self, num_slots: int = 32, num_words: int = 1024):
        for name, value, least in (("num_slots", num_slots, 2), ("num_words", num_words, 1)):
            if value < least:
                raise ValueError(f"{name}={value} must be at least {least}.")
        self.num_slots, self.num_words = num_slots, num_words
        self._warn_of_cut = OneWarning()

    @property
    def sizes(self) -> dict[str, int]:
        """Arguments that make the same tokenizer again."""
        return {"num_slots": self.num_slots, "num_words": self.num_words}

    @property
    def num_ids(self) -> int:
        return _FIRST_ID + self.num_words

    @property
    def fingerprint(self) -> str:
        words = f"poet words v1, {self.num_words} words, {self.num_slots} slots"
        return hashlib.sha256(words.encode()).hexdigest()

    def encode(self, text: str) -> Int[np.ndarray, "L"]:
        """Ids of one text; one that is too long is cut after a word, with one warning."""
        words, room = _words(text), self.num_slots - 1
        if len(words) > room:
            self._warn_of_cut(text, f"{len(words)} words", room)
            words = words[:room]
        ids = np.full(self.num_slots, PAD_ID, np.int32)
        ids[: len(words)] = [self._id(word) for word in words]
        ids[len(words)] = EOS_ID
        return ids

    def check_prompt(self, text: str) -> None:
        """Refuses what a person would rather know: an empty prompt, or one that would be cut."""
        refuse_empty(text)
        num_words, room = len(_words(text)), self.num_slots - 1
        if num_words > room:
            raise ValueError(
                f"The prompt has {num_words} words and punctuation marks but this model reads"
                f" {room}; shorten it by {num_words - room}."
            )

    def _id(self, word: str) -> int:
        digest = hashlib.blake2b(word.encode("utf-8"), digest_size=8).digest()
        return _FIRST_ID + int.from_bytes(digest, "little") % self.num_words


def _words(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text.lower())


def refuse_empty(text: str) -> None:
    """ValueError for a prompt without a word."""
    if not text.strip():
        raise ValueError(
            "The prompt is empty; write what the clip should show, for example"
            ' "a red circle moves left".'
        )


class OneWarning:
    """Says once that a text was cut; a data set of long captions would say it in every batch."""

    def __init__(self):
        self._is_said = False

    def __call__(self, text: str, size: str, room: int) -> None:
        if not self._is_said:
            logging.warning(
                "A text of %s was cut to the %d that fit (%.40r...). Longer ones will be cut"
                " without another word.",
                size,
                room,
                text,
            )
            self._is_said = True

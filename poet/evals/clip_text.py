"""CLIP's tokens of captions: lower-cased byte-pair pieces, begin and end of text, at most 77.

A caption is normalised (NFC), its white space made single, lower-cased, and cut into contractions,
runs of letters, single digits and runs of other signs. Each piece is written as its UTF-8 bytes,
the last one marked as an end; pairs are joined in the order of merges.txt. Equal to `CLIPTokenizer`
of `transformers` in tests; OpenAI's own code also repairs broken encodings and HTML entities first.

Axes: N captions, L tokens.
"""

import functools
import json
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from poet.typing import Int

BEGIN, END = "<|startoftext|>", "<|endoftext|>"
NUM_PLACES = 77
_END_OF_WORD = "</w>"
_CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")


class ClipTokenizer:
    """Captions to ids.

    Args:
      ids: vocab.json: piece -> id.
      merges: Lines of merges.txt without its header: two pieces each, the earliest first.
      num_places: L, begin and end included.

    Raises:
      ValueError: The vocabulary has no begin or end, or a merge is no pair.
    """

    def __init__(self, ids: Mapping[str, int], merges: Sequence[str], num_places: int = NUM_PLACES):
        missing = [token for token in (BEGIN, END) if token not in ids]
        if missing:
            raise ValueError(f"vocab.json has no {missing[0]}; give the files of a CLIP.")
        pairs = [tuple(line.split()) for line in merges]
        if any(len(pair) != 2 for pair in pairs):
            raise ValueError("merges.txt has a line that is no pair of pieces; copy it again.")
        if num_places < 2:
            raise ValueError(f"Expected room for begin and end, got num_places={num_places}.")
        self._ids, self._num_places = ids, num_places
        self._rank = {pair: rank for rank, pair in enumerate(pairs)}

    def __call__(
        self, captions: Sequence[str]
    ) -> tuple[Int[np.ndarray, "N L"], Int[np.ndarray, "N"]]:
        """(ids, where each caption's end is); what is too long is cut before the end.

        Places behind the end hold 0, as OpenAI has it; no state before them depends on them.

        Raises:
          ValueError: A piece is not in the vocabulary.
        """
        rows = np.zeros((len(captions), self._num_places), np.int32)
        ends = np.zeros(len(captions), np.int32)
        for row, caption in enumerate(captions):
            found = self.ids_of(caption)[: self._num_places - 2]
            found = [self._ids[BEGIN], *found, self._ids[END]]
            rows[row, : len(found)], ends[row] = found, len(found) - 1
        return rows, ends

    def ids_of(self, caption: str) -> list[int]:
        """All ids of a caption, without begin and end.

        Raises:
          ValueError: A piece is not in the vocabulary.
        """
        found = []
        for word in words_of(caption):
            if word in (BEGIN, END):
                found.append(self._ids[word])
                continue
            for piece in self._pieces(word):
                if piece not in self._ids:
                    raise ValueError(
                        f"vocab.json has no piece {piece!r} of the word {word!r}; give vocab.json"
                        " and merges.txt of the same CLIP."
                    )
                found.append(self._ids[piece])
        return found

    def _pieces(self, word: str) -> list[str]:
        signs = _byte_signs()
        pieces = [signs[byte] for byte in word.encode()]
        pieces[-1] += _END_OF_WORD
        while len(pieces) > 1:
            pairs = list(zip(pieces[:-1], pieces[1:], strict=True))
            best = min(pairs, key=lambda pair: self._rank.get(pair, len(self._rank)))
            if best not in self._rank:
                break
            pieces = _joined(pieces, best)
        return pieces


def read_tokenizer(folder: str | Path, num_places: int = NUM_PLACES) -> ClipTokenizer:
    """The tokenizer of a folder with vocab.json and merges.txt.

    Raises:
      ValueError: A file is missing or damaged.
    """
    texts = []
    for name in ("vocab.json", "merges.txt"):
        path = Path(folder) / name
        if not path.is_file():
            raise ValueError(
                f"Expected {name} in {folder}, found none; copy it beside the weights."
            )
        texts.append(path.read_text(encoding="utf-8"))
    return tokenizer_of(*texts, num_places=num_places)


def tokenizer_of(vocabulary: str, merges: str, *, num_places: int) -> ClipTokenizer:
    """The tokenizer of the texts of vocab.json and merges.txt.

    Raises:
      ValueError: One is damaged.
    """
    try:
        ids = json.loads(vocabulary)
    except ValueError as error:
        raise ValueError(f"vocab.json is no JSON ({error}); copy it again.") from error
    if not isinstance(ids, dict) or not all(isinstance(value, int) for value in ids.values()):
        raise ValueError("vocab.json is no table of ids; copy it again.")
    lines = merges.split("\n")
    lines = lines[1:] if lines[0].startswith("#version") else lines
    return ClipTokenizer(ids, [line for line in lines if line.strip()], num_places)


def words_of(caption: str) -> list[str]:
    """What a caption is cut into before bytes: "It's 20 €!!" gives it, 's, 2, 0, €!!."""
    text = " ".join(unicodedata.normalize("NFC", caption).split()).lower()
    words, place = [], 0
    while place < len(text):
        if text[place] == " ":
            place += 1
            continue
        word = _word_at(text, place)
        words.append(word)
        place += len(word)
    return words


def _word_at(text: str, place: int) -> str:
    for fixed in (BEGIN, END, *_CONTRACTIONS):
        if text.startswith(fixed, place):
            return fixed
    kind = _kind(text[place])
    if kind == "N":  # Digits stand alone.
        return text[place]
    stop = place + 1
    while stop < len(text) and _kind(text[stop]) == kind:
        stop += 1
    return text[place:stop]


def _kind(sign: str) -> str:
    """L letter, N number, " " space, "." anything else, by Unicode's categories."""
    if sign == " ":
        return sign
    category = unicodedata.category(sign)[0]
    return category if category in "LN" else "."


def _joined(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    """The pieces with every occurrence of a pair, from the left, made one."""
    joined, place = [], 0
    while place < len(pieces):
        if tuple(pieces[place : place + 2]) == pair:
            joined.append(pieces[place] + pieces[place + 1])
            place += 2
        else:
            joined.append(pieces[place])
            place += 1
    return joined


@functools.cache
def _byte_signs() -> list[str]:
    """The sign that stands for each byte: itself where it prints, else one from 256 on."""
    prints = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in prints]
    signs = {byte: chr(byte) for byte in prints}
    signs |= {byte: chr(256 + place) for place, byte in enumerate(others)}
    return [signs[byte] for byte in range(256)]

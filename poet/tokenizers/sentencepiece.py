"""Text as the pieces of a SentencePiece model, for encoders that were trained with one.

Poet ships no such model; T5's is `spiece.model` beside its weights. Ids must follow T5: 0 pad, 1
end of text.
"""

import functools
import hashlib
from typing import Any

import numpy as np
from etils import epath

from poet.tokenizers.text import EOS_ID, PAD_ID, OneWarning, refuse_empty
from poet.typing import Int


class SentencePieceTokenizer:
    """Pieces of text in a fixed number of slots, closed by the end-of-text id, then pads.

    Attributes:
      model_file: The SentencePiece model, or a folder that has it as `spiece.model`.
      num_slots: Ids a text; it holds num_slots - 1 pieces and the end.
      num_ids: Pieces of the model. The embedding of an encoder may have more rows.
      fingerprint: Same text, same ids, exactly where this string is the same.
    """

    def __init__(self, model_file: str, num_slots: int = 64):
        if num_slots < 2:
            raise ValueError(
                f"num_slots={num_slots} must be at least 2, for one piece and the end of the text;"
                " 64 is usual."
            )
        self.model_file, self.num_slots = str(model_file), num_slots
        path = epath.Path(model_file)
        path = path / "spiece.model" if path.is_dir() else path
        if not path.exists():
            raise ValueError(
                f"Expected a SentencePiece model at {model_file}, found none; T5's is called"
                " spiece.model. Put it there, or correct the path."
            )
        self._content = path.read_bytes()
        self._pieces = _load(self._content, self.model_file)
        self._warn_of_cut = OneWarning()

    def __eq__(self, other: object) -> bool:
        same = isinstance(other, SentencePieceTokenizer)
        return same and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    @property
    def sizes(self) -> dict[str, Any]:
        """Arguments that make the same tokenizer again, where the model file lies at its place."""
        return {"model_file": self.model_file, "num_slots": self.num_slots}

    @property
    def num_ids(self) -> int:
        return self._pieces.get_piece_size()

    @functools.cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(f"poet sentencepiece v1, {self.num_slots} slots".encode())
        digest.update(self._content)
        return digest.hexdigest()

    def encode(self, text: str) -> Int[np.ndarray, "L"]:
        """Ids of one text; one that is too long is cut after a piece, with one warning."""
        pieces, room = self._pieces.encode(text), self.num_slots - 1
        if len(pieces) > room:
            self._warn_of_cut(text, f"{len(pieces)} pieces", room)
            pieces = pieces[:room]
        ids = np.full(self.num_slots, PAD_ID, np.int32)
        ids[: len(pieces)] = pieces
        ids[len(pieces)] = EOS_ID
        return ids

    def decode(self, ids: Int[np.ndarray, "L"]) -> str:
        """The text of these ids up to the end."""
        ids = np.asarray(ids)
        ends = np.flatnonzero(ids == EOS_ID)
        return self._pieces.decode((ids[: ends[0]] if len(ends) else ids).tolist())

    def check_prompt(self, text: str) -> None:
        """Refuses what a person would rather know: an empty prompt, or one that would be cut."""
        refuse_empty(text)
        num_pieces, room = len(self._pieces.encode(text)), self.num_slots - 1
        if num_pieces > room:
            raise ValueError(
                f"The prompt takes {num_pieces} pieces but this model reads {room}; shorten it by"
                f" {num_pieces - room}."
            )


def _load(content: bytes, model_file: str) -> Any:
    try:
        import sentencepiece
    except ImportError as error:
        raise ValueError(
            "Reading SentencePiece models needs the package sentencepiece, which is not installed;"
            " `pip install sentencepiece`."
        ) from error
    pieces = sentencepiece.SentencePieceProcessor()
    try:
        pieces.load_from_serialized_proto(content)
    except Exception as error:  # Its C++ side raises types of its own.
        raise ValueError(f"{model_file} is no whole SentencePiece model; copy it again.") from error
    if (pieces.pad_id(), pieces.eos_id()) != (PAD_ID, EOS_ID):
        raise ValueError(
            f"{model_file} has pad id {pieces.pad_id()} and end id {pieces.eos_id()}; expected"
            f" {PAD_ID} and {EOS_ID}, as T5's model has them."
        )
    return pieces

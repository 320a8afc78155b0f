"""Text as bytes: the tokenizer of the small runs, with nothing to download.

Ids follow the byte variant of T5: 0 pad, 1 end of text, 2 unknown (never made here), then byte + 3.
"""

import hashlib

import numpy as np
from absl import logging

from poet.typing import Int

PAD_ID, EOS_ID, UNK_ID = 0, 1, 2
_FIRST_BYTE_ID = 3


class ByteTokenizer:
    """UTF-8 bytes in a fixed number of slots, closed by the end-of-text id, then pads.

    Attributes:
      num_slots: Ids a text; it holds num_slots - 1 bytes and the end.
      num_ids: 259, of which ids 0 to 2 are pad, end and unknown.
      fingerprint: Same text, same ids, exactly where this string is the same.
    """

    num_ids = _FIRST_BYTE_ID + 256

    def __init__(self, num_slots: int = 64):
        if num_slots < 2:
            raise ValueError(
                f"num_slots={num_slots} must be at least 2, for one byte and the end of the text;"
                " 64 is usual."
            )
        self.num_slots = num_slots
        self._has_warned = False

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"poet bytes v1, {self.num_slots} slots".encode()).hexdigest()

    def encode(self, text: str) -> Int[np.ndarray, "L"]:
        """Ids of one text; one that is too long is cut between characters, with one warning."""
        data = text.encode("utf-8")
        room = self.num_slots - 1
        if len(data) > room:
            self._warn_once(text, len(data), room)
            # Decoding with "ignore" drops the bytes of a character that was cut in two.
            data = data[:room].decode("utf-8", "ignore").encode("utf-8")
        ids = np.full(self.num_slots, PAD_ID, np.int32)
        ids[: len(data)] = np.frombuffer(data, np.uint8).astype(np.int32) + _FIRST_BYTE_ID
        ids[len(data)] = EOS_ID
        return ids

    def decode(self, ids: Int[np.ndarray, "L"]) -> str:
        """The text of these ids up to the end; ids that are no byte are left out."""
        ids = np.asarray(ids)
        ends = np.flatnonzero(ids == EOS_ID)
        ids = ids[: ends[0]] if len(ends) else ids
        local = ids[(ids >= _FIRST_BYTE_ID) & (ids < self.num_ids)] - _FIRST_BYTE_ID
        return bytes(local.astype(np.uint8)).decode("utf-8", "replace")

    def check_prompt(self, text: str) -> None:
        """Refuses what a person would rather know: an empty prompt, or one that would be cut."""
        if not text.strip():
            raise ValueError(
                "The prompt is empty; write what the clip should show, for example"
                ' "a red circle moves left".'
            )
        num_bytes, room = len(text.encode("utf-8")), self.num_slots - 1
        if num_bytes > room:
            raise ValueError(
                f"The prompt takes {num_bytes} bytes but this model reads {room}; shorten it by"
                f" {num_bytes - room} (letters with accents take two bytes or more)."
            )

    def _warn_once(self, text, num_bytes, room):
        if not self._has_warned:
            logging.warning(
                "A text of %d bytes was cut to the %d that fit (%.40r...). Longer ones will be cut"
                " without another word.",
                num_bytes,
                room,
                text,
            )
            self._has_warned = True

"""Reads TFRecord files without TensorFlow: length, its checksum, data, its checksum, repeated."""

import mmap
import struct

_HEADER_BYTES = 12
_FOOTER_BYTES = 4


class TfrecordReader:
    """Random access to one file; the interface of array_record's reader.

    The checksums inside the file (masked CRC-32C) are not looked at: Poet's index holds one for
    every record. Raises OSError if the file ends inside a record.
    """

    def __init__(self, path: str):
        with open(path, "rb") as file:
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._spans = []
        at = 0
        while at < len(self._data):
            header = self._data[at : at + _HEADER_BYTES]
            num_bytes = struct.unpack("<Q", header[:8])[0] if len(header) == _HEADER_BYTES else 0
            start = at + _HEADER_BYTES
            at = start + num_bytes + _FOOTER_BYTES
            if at > len(self._data):
                raise OSError(f"{path} ends inside record {len(self._spans)}")
            self._spans.append((start, start + num_bytes))

    def num_records(self) -> int:
        """Records in the file."""
        return len(self._spans)

    def read(self, indices) -> list[bytes]:
        """The records at the given positions."""
        return [self._data[slice(*self._spans[index])] for index in indices]

    def read_all(self) -> list[bytes]:
        """All records, in file order."""
        return self.read(range(len(self._spans)))

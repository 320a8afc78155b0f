"""Where the real clips are, and small files made on the spot."""

import csv
import os
import pathlib
import struct

import numpy as np
import pytest

_REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def real_clips():
    """The folder of real clips; tests that ask for it are skipped where it is missing."""
    folder = pathlib.Path(os.environ.get("POET_CLIPS", _REPOSITORY.parent / "shared" / "clips"))
    if not (folder / "MANIFEST.tsv").is_file():
        pytest.skip(f"no real clips at {folder} (set POET_CLIPS)")
    return folder


@pytest.fixture(scope="session")
def real_facts(real_clips):
    """File name -> row of the real clips' manifest."""
    with open(real_clips / "MANIFEST.tsv", newline="", encoding="utf-8") as file:
        return {row["file"]: row for row in csv.DictReader(file, delimiter="\t")}


@pytest.fixture(scope="session")
def grey_steps():
    """20 grey frames; frame k has the level 10 k everywhere."""
    levels = np.arange(20, dtype=np.uint8) * 10
    return np.broadcast_to(levels[:, None, None, None], (20, 32, 48, 3)).copy()


def box_offsets(data: bytes, name: bytes) -> list[int]:
    """Where the contents of the mp4 boxes of this name start."""
    containers = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts")
    found, ranges = [], [(0, len(data))]
    while ranges:
        at, end = ranges.pop(0)
        while at < end:
            length, kind = struct.unpack(">I4s", data[at : at + 8])
            if kind == name:
                found.append(at + 8)
            if kind in containers:
                ranges.append((at + 8, at + length))
            at += length
    return found


@pytest.fixture(scope="session")
def set_display_matrix():
    """Function (path, a, b, c, d): makes players turn the first track of an mp4 file."""

    def apply(path, a, b, c, d):
        data = bytearray(path.read_bytes())
        at = box_offsets(data, b"tkhd")[0] + 40
        one = 1 << 16
        data[at : at + 36] = struct.pack(
            ">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30
        )
        path.write_bytes(data)

    return apply


@pytest.fixture(scope="session")
def set_edit():
    """Function (path, track, media_time, duration): makes players start a track later."""

    def apply(path, track, media_time, duration):
        data = bytearray(path.read_bytes())
        at = box_offsets(data, b"elst")[track] + 8
        data[at : at + 8] = struct.pack(">Ii", duration, media_time)
        path.write_bytes(data)

    return apply

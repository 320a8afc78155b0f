"""Writes token records as a TFDS dataset with Poet's own index beside it.

    DIR/dataset_info.json, features.json, metadata.json    TFDS's own files
    DIR/poet_tokens-train.array_record-00000-of-00001      records, in the order given
    DIR/index/train.caption.npy                            positions of the records with a caption
    DIR/index/train.grid.npy                               shape [t, h, w] of every record's ids
    DIR/index/train.crc32.npy                              checksum of every record
    DIR/poet.json                                          metadata, statistics, content fingerprint

The directory appears under its name complete or not at all, and equal input gives equal bytes.
"""

import collections
import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterable

import numpy as np
from etils import epath

from poet.data import features, masking

DATASET_NAME = "poet_tokens"
# 2: conditions (masked, structure, region) and the index of grids.
FORMAT_VERSION = 2
FILE_FORMATS = ("array_record", "tfrecord")
# What a record may have; a task asks for a set of these (`objectives.needs`).
CAPABILITIES = ("caption", "audio", "video", "masked", "inpainting", "outpainting", "structure")
CAPABILITIES_OF_VERSION_1 = ("caption", "audio", "video")


def write_dataset(
    out_dir,
    splits: dict[str, Iterable[dict]],
    metadata: dict,
    *,
    file_format: str = "array_record",
    records_per_shard: int = 16_384,
    overwrite: bool = False,
) -> dict:
    """Writes the records of each split, in the order given; returns the content of `poet.json`.

    Args:
      out_dir: where the dataset appears, local or remote. It must not exist (or overwrite=True).
      splits: split name -> record dicts (fields in `features.FIELDS`: local ids, one clip each).
        Iterables are read once, one record at a time. Splits without records are left out.
      metadata: JSON-able facts, kept as given: "fingerprints" (of the tokenizers) and whatever
        else says how the ids were made: vocabulary, clip, sound, preprocessing.
      file_format: array_record (random access, TF-free) or tfrecord (what SeqIO's TFDS source
        reads; writing it imports TensorFlow).

    Raises ValueError for an unfit record, no records at all, or an out_dir that exists.
    """
    out_dir = epath.Path(out_dir)
    _check_arguments(out_dir, splits, metadata, file_format, overwrite)
    is_local = _is_local(out_dir)
    if is_local:
        out_dir.parent.mkdir(parents=True, exist_ok=True)
        work_dir = out_dir.parent / f".{out_dir.name}.tmp"
        # Left over from a run that was killed.
        for left_over in (work_dir, _old_dir(out_dir)):
            shutil.rmtree(left_over, ignore_errors=True)
        work_dir.mkdir()
    else:
        work_dir = epath.Path(tempfile.mkdtemp(prefix=f"{DATASET_NAME}-"))
    try:
        summary = _write_files(work_dir, splits, metadata, file_format, records_per_shard)
        _publish(work_dir, out_dir, is_local)
    finally:
        shutil.rmtree(work_dir, ignore_errors=True)
    return summary


def _check_arguments(out_dir, splits, metadata, file_format, overwrite):
    if file_format not in FILE_FORMATS:
        raise ValueError(
            f"file_format must be one of {list(FILE_FORMATS)}, got {file_format!r}."
            " Choose array_record unless SeqIO's own TFDS source has to read the files."
        )
    if not splits:
        raise ValueError("Expected at least one split, got none. Name one, such as 'train'.")
    for split in splits:
        if not split.isidentifier():
            raise ValueError(
                f"A split name must be letters, digits and underscores, got {split!r}."
                " Rename it, for example to 'held_out'."
            )
    if not isinstance(metadata.get("fingerprints"), dict):
        raise ValueError(
            "metadata must hold 'fingerprints', a dict of tokenizer name to fingerprint, got"
            f" {metadata.get('fingerprints')!r}. Pass each tokenizer's .fingerprint."
        )
    if out_dir.exists() and not overwrite:
        raise ValueError(
            f"{out_dir} exists already, expected a new directory. Choose another --out, or delete"
            " it first."
        )


def _write_files(work_dir, splits, metadata, file_format, records_per_shard):
    (work_dir / "index").mkdir()
    facts, num_levels = {}, None
    for split, records in splits.items():
        shards = _ShardWriter(work_dir, split, file_format, records_per_shard)
        seen = _SplitFacts()
        for record in records:
            record = features.check_record(record)
            num_levels = num_levels or record["audio"].shape[0]
            if record["audio"].shape[0] != num_levels:
                raise ValueError(
                    f"Record {record['clip_id']!r} has {record['audio'].shape[0]} audio levels,"
                    f" the records before it {num_levels}. Tokenize all clips with one tokenizer."
                )
            data = features.encode_record(record)
            shards.write(data)
            seen.add(record, data)
        shards.close()
        if seen.crc32:
            seen.save(work_dir / "index", split)
            facts[split] = (seen, shards)
    if not facts:
        raise ValueError(
            f"Expected at least one record, got none in the splits {sorted(splits)}."
            " Check that the input files could be read."
        )
    summary = {
        "format_version": FORMAT_VERSION,
        "file_format": file_format,
        "audio_levels": num_levels,
        "capabilities": list(CAPABILITIES),
        "metadata": metadata,
        "splits": {split: seen.summary(shards.lengths) for split, (seen, shards) in facts.items()},
    }
    summary["fingerprint"] = _fingerprint(summary, facts)
    _write_tfds_metadata(work_dir, facts, summary, file_format)
    (work_dir / "poet.json").write_text(json.dumps(summary, indent=1, sort_keys=True) + "\n")
    return summary


def _fingerprint(summary, facts) -> str:
    """Names the content, not the file format: both formats of one dataset share it."""
    digest = hashlib.sha256(json.dumps(summary["metadata"], sort_keys=True).encode())
    for split, (seen, _) in sorted(facts.items()):
        digest.update(split.encode())
        digest.update(np.asarray(seen.crc32, "<u4").tobytes())
    return digest.hexdigest()[:32]


def _write_tfds_metadata(work_dir, facts, summary, file_format):
    import tensorflow_datasets as tfds

    template = tfds.core.ShardedFileTemplate(
        data_dir=work_dir, dataset_name=DATASET_NAME, filetype_suffix=file_format
    )
    tfds.folder_dataset.write_metadata(
        data_dir=work_dir,
        features=features.tfds_features(summary["audio_levels"]),
        split_infos=[
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=shards.lengths,
                num_bytes=seen.num_bytes,
                filename_template=template.replace(split=split),
            )
            for split, (seen, shards) in facts.items()
        ],
        version="1.0.0",
        # Opening the files for a check would import TensorFlow.
        check_data=False,
        description="Visual and audio token ids of captioned clips, one clip a record.",
        metadata=tfds.core.MetadataDict(
            metadata=summary["metadata"],
            fingerprint=summary["fingerprint"],
            format_version=FORMAT_VERSION,
        ),
    )


def _publish(work_dir, out_dir, is_local):
    """Gives the finished directory its name."""
    if is_local:
        if out_dir.exists():
            # Two renames instead of a deletion that could be interrupted half-way.
            os.rename(out_dir, _old_dir(out_dir))
            os.rename(work_dir, out_dir)
            shutil.rmtree(_old_dir(out_dir))
        else:
            os.rename(work_dir, out_dir)
        return
    if out_dir.exists():
        out_dir.rmtree()
    # Object stores have no directory rename: poet.json goes last, and without it no dataset opens.
    names = [path.name for path in work_dir.iterdir() if not path.is_dir()]
    names += [f"index/{path.name}" for path in (work_dir / "index").iterdir()]
    for name in sorted(names, key=lambda name: (name == "poet.json", name)):
        _copy(work_dir / name, out_dir / name)


def _old_dir(out_dir):
    return out_dir.parent / f".{out_dir.name}.old"


def _is_local(path) -> bool:
    return "://" not in os.fspath(path)


def _copy(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    source.copy(target)


class _ShardWriter:
    """Cuts a stream of records into shards; their final names need the number of shards."""

    def __init__(self, work_dir, split, file_format, records_per_shard):
        self._work_dir, self._split, self._file_format = work_dir, split, file_format
        self._records_per_shard = records_per_shard
        self._writer = None
        self.lengths: list[int] = []

    def write(self, data: bytes):
        if self._writer is None or self.lengths[-1] == self._records_per_shard:
            self._close_shard()
            self.lengths.append(0)
            self._writer = _open_writer(self._temporary(len(self.lengths) - 1), self._file_format)
        self._writer.write(data)
        self.lengths[-1] += 1

    def close(self):
        self._close_shard()
        for number in range(len(self.lengths)):
            name = shard_name(self._split, self._file_format, number, len(self.lengths))
            os.rename(self._temporary(number), self._work_dir / name)

    def _temporary(self, number):
        return os.fspath(self._work_dir / f"{self._split}.{number:05d}.unfinished")

    def _close_shard(self):
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def shard_name(split: str, file_format: str, number: int, num_shards: int) -> str:
    """The file name of a shard, as TFDS spells it."""
    return f"{DATASET_NAME}-{split}.{file_format}-{number:05d}-of-{num_shards:05d}"


def _open_writer(path, file_format):
    if file_format == "tfrecord":
        import tensorflow as tf

        return tf.io.TFRecordWriter(path)
    from array_record.python import array_record_module

    # One record a group: a read of one record then decompresses that record only.
    return array_record_module.ArrayRecordWriter(path, "group_size:1")


@dataclasses.dataclass
class _SplitFacts:
    """What is counted while a split streams by: checksums, capabilities, statistics."""

    crc32: list[int] = dataclasses.field(default_factory=list)
    num_bytes: int = 0
    capability: dict[str, list[int]] = dataclasses.field(
        default_factory=lambda: {name: [] for name in CAPABILITIES}
    )
    grids: list[tuple[int, ...]] = dataclasses.field(default_factory=list)
    shapes: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    used: dict[str, set] = dataclasses.field(default_factory=lambda: collections.defaultdict(set))
    totals: collections.Counter = dataclasses.field(default_factory=collections.Counter)

    def add(self, record: dict, data: bytes):
        index = len(self.crc32)
        self.crc32.append(zlib.crc32(data))
        self.num_bytes += len(data)
        has = {
            "caption": bool(record["caption"].strip()),
            "audio": bool(record["has_audio"]),
            "video": record["visual"].shape[0] > 1,
            "masked": bool(record["region"]),
            "inpainting": record["region"] in masking.INPAINTING,
            "outpainting": record["region"] in masking.OUTPAINTING,
            "structure": bool(record["structure"].size),
        }
        for name in CAPABILITIES:
            if has[name]:
                self.capability[name].append(index)
        self.grids.append(record["visual"].shape)
        self.totals["num_frames"] += record["num_frames"]
        self.totals["num_visual_ids"] += record["visual"].size
        self.totals["num_audio_ids"] += record["audio"].size
        self.shapes["x".join(map(str, record["visual"].shape))] += 1
        self.used["visual"].update(np.unique(record["visual"]).tolist())
        for level, codes in enumerate(record["audio"]):
            self.used[f"audio_{level}"].update(np.unique(codes).tolist())

    def save(self, index_dir, split):
        """Writes the index files: int64 positions by capability, int32 grids, uint32 checksums."""
        for name, positions in self.capability.items():
            _save_npy(index_dir / f"{split}.{name}.npy", np.asarray(positions, np.int64))
        _save_npy(index_dir / f"{split}.grid.npy", np.asarray(self.grids, np.int32))
        _save_npy(index_dir / f"{split}.crc32.npy", np.asarray(self.crc32, np.uint32))

    def summary(self, shard_lengths) -> dict:
        return {
            "num_records": len(self.crc32),
            "shard_lengths": shard_lengths,
            "num_bytes": self.num_bytes,
            "num_images": len(self.crc32) - len(self.capability["video"]),
            **{f"num_with_{name}": len(at) for name, at in self.capability.items()},
            **dict(self.totals),
            "visual_shapes": dict(sorted(self.shapes.items())),
            "codes_used": {name: len(codes) for name, codes in sorted(self.used.items()) if codes},
        }


def _save_npy(path, array):
    with path.open("wb") as file:
        np.save(file, array)

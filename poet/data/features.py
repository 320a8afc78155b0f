"""The fields of one token record, and its bytes: a tf.train.Example as TFDS lays it out.

Ids are stored as raw little-endian int32 (TFDS's `Encoding.BYTES`), so that a record decodes in
microseconds and `tfds.builder_from_directory` reads the same files. The number of audio levels is
one per dataset: TFDS 4.9.10 cannot read back an empty array whose shape is wholly unknown, and a
clip without sound has levels x 0 ids. Nothing here imports TensorFlow: TFDS brings the protos.
"""

import numpy as np

INT_FIELDS = ("num_frames", "has_audio")
# `region` names what is hidden in the masked clip (`masking.REGIONS`), "" without one.
TEXT_FIELDS = ("clip_id", "caption", "region")
# Rank of each id array: visual [t, h, w], audio [levels, audio frames].
ID_FIELDS = {"visual": 3, "audio": 2}
# Ids of what some tasks are given instead of the clip, [t, h, w] as `visual` or [0, 0, 0] where the
# record has none: the clip with a region hidden, and its optical flow and depth. Stored flat, since
# TFDS 4.9.10 cannot read back an empty array of several unknown axes.
CONDITIONS = ("masked", "structure")
FIELDS = TEXT_FIELDS + tuple(ID_FIELDS) + CONDITIONS + INT_FIELDS
# What a record has if it does not say otherwise.
_DEFAULTS = {"region": "", **{name: np.zeros((0, 0, 0), np.int32) for name in CONDITIONS}}


def tfds_features(num_levels: int):
    """The `tfds.features.FeaturesDict` of a record (imports TFDS, not TensorFlow)."""
    import tensorflow_datasets as tfds

    features = {name: tfds.features.Text() for name in TEXT_FIELDS}
    for name, shape in (("visual", (None, None, None)), ("audio", (num_levels, None))):
        features[name] = tfds.features.Tensor(
            shape=shape, dtype=np.int32, encoding=tfds.features.Encoding.BYTES
        )
    for name in CONDITIONS:
        features[name] = tfds.features.Tensor(
            shape=(None,), dtype=np.int32, encoding=tfds.features.Encoding.BYTES
        )
    features.update({name: tfds.features.Scalar(dtype=np.int32) for name in INT_FIELDS})
    return tfds.features.FeaturesDict(features)


def import_protos():
    """Imports what `encode_record` and `decode_record` need.

    To be called before threads start: importing TFDS swaps the builtin `import` for a lazy one,
    for all threads, and a program that another thread is tracing meanwhile fails.
    """
    from tensorflow_datasets.proto import tf_example_pb2  # noqa: F401


def check_record(record: dict) -> dict:
    """The record with every field in its type, or a ValueError naming the clip and the field."""
    name = record.get("clip_id", "?")
    record = _DEFAULTS | record
    missing = [field for field in FIELDS if field not in record]
    if missing:
        raise ValueError(
            f"Record {name!r} lacks {missing}; a record has the fields {list(FIELDS)}."
            " Add them before writing."
        )
    checked = {field: str(record[field]) for field in TEXT_FIELDS}
    for field, rank in {**ID_FIELDS, **dict.fromkeys(CONDITIONS, 3)}.items():
        ids = np.asarray(record[field])
        if ids.ndim != rank or not np.issubdtype(ids.dtype, np.integer):
            raise ValueError(
                f"Record {name!r}: {field} must be an integer array with {rank} axes, got"
                f" {ids.dtype} {ids.shape}. Write the tokenizer's local codes, one clip a record."
            )
        if ids.size and not 0 <= ids.min() <= ids.max() < 2**31:
            raise ValueError(
                f"Record {name!r}: {field} holds ids from {ids.min()} to {ids.max()}, expected"
                " local codes from 0 on. Check the tokenizer that made them."
            )
        checked[field] = ids.astype("<i4")
    if not checked["visual"].size:
        raise ValueError(
            f"Record {name!r} has no visual ids (shape {checked['visual'].shape}); every record"
            " needs at least one frame. Leave the clip out."
        )
    if not checked["audio"].shape[0]:
        raise ValueError(
            f"Record {name!r} has audio ids of shape {checked['audio'].shape}, expected at least"
            " one level. A clip without sound has levels x 0 ids; without an audio tokenizer 1 x 0."
        )
    _check_conditions(name, checked)
    checked.update({field: int(record[field]) for field in INT_FIELDS})
    if bool(checked["has_audio"]) != bool(checked["audio"].size):
        raise ValueError(
            f"Record {name!r}: has_audio={checked['has_audio']} but audio ids have the shape"
            f" {checked['audio'].shape}. A clip without sound has levels x 0 ids and has_audio=0."
        )
    return checked


def _check_conditions(name: str, checked: dict):
    for field in CONDITIONS:
        if checked[field].size and checked[field].shape != checked["visual"].shape:
            raise ValueError(
                f"Record {name!r}: {field} ids have the shape {checked[field].shape}, the clip's"
                f" {checked['visual'].shape}. Make the condition of the same frames as the clip."
            )
    if bool(checked["region"]) != bool(checked["masked"].size):
        raise ValueError(
            f"Record {name!r} has region={checked['region']!r} and masked ids of shape"
            f" {checked['masked'].shape}. Name the hidden region of a masked clip, and no other."
        )


def encode_record(record: dict) -> bytes:
    """The bytes of a checked record; the same record always gives the same bytes."""
    from tensorflow_datasets.proto import tf_example_pb2

    example = tf_example_pb2.Example()
    feature = example.features.feature
    for field in TEXT_FIELDS:
        feature[field].bytes_list.value.append(record[field].encode("utf-8"))
    feature["visual/value"].bytes_list.value.append(record["visual"].tobytes())
    feature["visual/shape"].int64_list.value.extend(record["visual"].shape)
    for field in ("audio", *CONDITIONS):
        feature[field].bytes_list.value.append(record[field].tobytes())
    for field in INT_FIELDS:
        feature[field].int64_list.value.append(record[field])
    # Map entries have no order of their own: without this flag equal records differ in bytes.
    return example.SerializeToString(deterministic=True)


def decode_record(data: bytes, num_levels: int) -> dict:
    """The record dict of `encode_record`'s bytes; id arrays are read-only int32."""
    from tensorflow_datasets.proto import tf_example_pb2

    feature = tf_example_pb2.Example.FromString(data).features.feature
    # Records of format version 1 have no conditions.
    record = {
        field: feature[field].bytes_list.value[0].decode("utf-8") if field in feature else ""
        for field in TEXT_FIELDS
    }
    visual = np.frombuffer(feature["visual/value"].bytes_list.value[0], "<i4")
    record["visual"] = visual.reshape(tuple(feature["visual/shape"].int64_list.value))
    audio = np.frombuffer(feature["audio"].bytes_list.value[0], "<i4")
    record["audio"] = audio.reshape(num_levels, -1)
    for field in CONDITIONS:
        data = feature[field].bytes_list.value[0] if field in feature else b""
        shape = record["visual"].shape if data else (0, 0, 0)
        record[field] = np.frombuffer(data, "<i4").reshape(shape)
    for field in INT_FIELDS:
        record[field] = feature[field].int64_list.value[0]
    return record

"""The fields of one token record, and its bytes: a tf.train.Example as TFDS lays it out.

Ids are stored as raw little-endian int32 beside their shape (TFDS's `Encoding.BYTES`), so that a
record decodes in microseconds and `tfds.builder_from_directory` reads the same files. Nothing here
imports TensorFlow: TFDS brings the two protos along.
"""

import numpy as np

INT_FIELDS = ("num_frames", "has_audio")
TEXT_FIELDS = ("clip_id", "caption")
# Rank of each id array: visual [t, h, w], audio [levels, audio frames].
ID_FIELDS = {"visual": 3, "audio": 2}
FIELDS = TEXT_FIELDS + tuple(ID_FIELDS) + INT_FIELDS


def tfds_features():
    """The `tfds.features.FeaturesDict` of a record (imports TFDS, not TensorFlow)."""
    import tensorflow_datasets as tfds

    features = {name: tfds.features.Text() for name in TEXT_FIELDS}
    for name, rank in ID_FIELDS.items():
        features[name] = tfds.features.Tensor(
            shape=(None,) * rank, dtype=np.int32, encoding=tfds.features.Encoding.BYTES
        )
    features.update({name: tfds.features.Scalar(dtype=np.int32) for name in INT_FIELDS})
    return tfds.features.FeaturesDict(features)


def check_record(record: dict) -> dict:
    """The record with every field in its type, or a ValueError naming the clip and the field."""
    name = record.get("clip_id", "?")
    missing = [field for field in FIELDS if field not in record]
    if missing:
        raise ValueError(
            f"Record {name!r} lacks {missing}; a record has the fields {list(FIELDS)}."
            " Add them before writing."
        )
    checked = {field: str(record[field]) for field in TEXT_FIELDS}
    for field, rank in ID_FIELDS.items():
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
    checked.update({field: int(record[field]) for field in INT_FIELDS})
    if bool(checked["has_audio"]) != bool(checked["audio"].size):
        raise ValueError(
            f"Record {name!r}: has_audio={checked['has_audio']} but audio ids have the shape"
            f" {checked['audio'].shape}. A clip without sound has levels x 0 ids and has_audio=0."
        )
    return checked


def encode_record(record: dict) -> bytes:
    """The bytes of a checked record; the same record always gives the same bytes."""
    from tensorflow_datasets.proto import tf_example_pb2

    example = tf_example_pb2.Example()
    feature = example.features.feature
    for field in TEXT_FIELDS:
        feature[field].bytes_list.value.append(record[field].encode("utf-8"))
    for field in ID_FIELDS:
        feature[f"{field}/value"].bytes_list.value.append(record[field].tobytes())
        feature[f"{field}/shape"].int64_list.value.extend(record[field].shape)
    for field in INT_FIELDS:
        feature[field].int64_list.value.append(record[field])
    # Map entries have no order of their own: without this flag equal records differ in bytes.
    return example.SerializeToString(deterministic=True)


def decode_record(data: bytes) -> dict:
    """The record dict of `encode_record`'s bytes; id arrays are read-only int32."""
    from tensorflow_datasets.proto import tf_example_pb2

    feature = tf_example_pb2.Example.FromString(data).features.feature
    record = {field: feature[field].bytes_list.value[0].decode("utf-8") for field in TEXT_FIELDS}
    for field in ID_FIELDS:
        shape = tuple(feature[f"{field}/shape"].int64_list.value)
        ids = np.frombuffer(feature[f"{field}/value"].bytes_list.value[0], "<i4")
        record[field] = ids.reshape(shape)
    for field in INT_FIELDS:
        record[field] = feature[field].int64_list.value[0]
    return record

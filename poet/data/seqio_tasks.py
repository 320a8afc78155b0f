"""Poet's registered tasks as SeqIO tasks over a prepared dataset, for tools that speak SeqIO.

    seqio_tasks.register_seqio("out/demo/dataset", text_tokenizer)
    seqio.get_mixture_or_task("poet_pretrain").get_dataset(...)

The same objectives and the same order of records as the TF-free path (`poet.data.batches`), so
both give equal bytes. SeqIO and TensorFlow are imported when `register_seqio` is called.
"""

import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from poet.data import features, masking, order, records, registry
from poet.data.batches import order_stream
from poet.data.converter import TASK_FEATURE_RANKS

# Ids are local codes here; the largest codebook in use has 2^18.
_MAX_ID = 2**31 - 1
_ID_NAMES = (*features.ID_FIELDS, *features.CONDITIONS)


def register_seqio(
    dataset_dir,
    text_tokenizer,
    *,
    task_names=None,
    num_epochs: int = 1,
    metric_fns: Mapping[str, Sequence[Callable]] | None = None,
):
    """Adds Poet's tasks and mixtures to SeqIO's registries, reading one prepared dataset.

    Calling it again moves the names to another dataset.

    Args:
      dataset_dir: from `poet prepare`. For array_record the source reads records in Poet's order
        (`shuffle=True` with a seed: the order of the training run with that seed); for tfrecord
        it is SeqIO's own `TfdsDataSource` with its shuffling.
      text_tokenizer: `.encode(caption) -> int32 [slots]`.
      task_names: which tasks and mixtures; all registered ones by default.
      num_epochs: passes of one shuffled reading, each in an order of its own. (SeqIO's own
        `num_epochs` repeats that reading as it is.)
      metric_fns: task name -> SeqIO metric functions (targets, predictions), for its `Evaluator`
        (give that `target_field_name="visual"` or "audio").

    Returns the names that SeqIO knows now.
    """
    import seqio

    dataset = records.open_dataset(dataset_dir)
    wanted = registry.names() if task_names is None else list(task_names)
    entries = [registry.get(name) for name in wanted]
    tasks = {}
    for entry in entries:
        for task, _ in registry.resolve(entry.name):
            tasks[task.name] = task
    for task in tasks.values():
        seqio.TaskRegistry.remove(task.name)
        _add_task(dataset, task, text_tokenizer, num_epochs, (metric_fns or {}).get(task.name, ()))
    mixtures = [entry for entry in entries if isinstance(entry, registry.MixtureEntry)]
    for mixture in mixtures:
        seqio.MixtureRegistry.remove(mixture.name)
        shares = [(task.name, share) for task, share in registry.resolve(mixture.name)]
        seqio.MixtureRegistry.add(mixture.name, shares)
    return sorted([*tasks, *(mixture.name for mixture in mixtures)])


def _add_task(dataset, entry, text_tokenizer, num_epochs, metric_fns):
    import seqio
    import tensorflow as tf

    is_tfrecord = dataset.summary["file_format"] == "tfrecord"
    if is_tfrecord:
        source = seqio.TfdsDataSource(
            tfds_data_dir=str(dataset.directory),
            splits={split: split for split in dataset.splits},
            read_only=True,
        )
    else:
        source = _record_source(dataset, entry, num_epochs)
    vocabulary = seqio.PassThroughVocabulary(size=_MAX_ID)
    seqio.TaskRegistry.add(
        entry.name,
        source=source,
        preprocessors=[
            functools.partial(_keep_served, needs=entry.needs),
            functools.partial(_apply_objective, entry=entry, text_tokenizer=text_tokenizer),
            # Where SeqIO's offline caching stops; what it cached is read from here on.
            seqio.CacheDatasetPlaceholder(),
        ],
        output_features={
            name: seqio.Feature(vocabulary, add_eos=False, rank=rank, dtype=tf.int32)
            for name, rank in TASK_FEATURE_RANKS.items()
        },
        metric_fns=list(metric_fns),
        # Records come in an order of their own already; a buffer on top would change it.
        shuffle_buffer_size=1000 if is_tfrecord else None,
    )


def _record_source(dataset, entry, num_epochs):
    """A `FunctionDataSource` over the records that serve a task, in Poet's order."""
    import seqio
    import tensorflow as tf

    ranks = {**features.ID_FIELDS, **dict.fromkeys(features.CONDITIONS, 3)}
    signature = {
        **{name: tf.TensorSpec([], tf.string) for name in features.TEXT_FIELDS},
        **{name: tf.TensorSpec([None] * rank, tf.int32) for name, rank in ranks.items()},
        **{name: tf.TensorSpec([], tf.int32) for name in features.INT_FIELDS},
    }

    class RecordSource(seqio.FunctionDataSource):
        """Shuffles by itself, which lets SeqIO leave its shuffle buffer out."""

        @property
        def performs_internal_shuffling(self):
            return True

    def dataset_fn(split, shuffle_files, seed=None):
        served = dataset.having(split, entry.needs)

        def read():
            stream, is_shuffled = order_stream(entry.name, split), shuffle_files
            for position in range(len(served) * (num_epochs if is_shuffled else 1)):
                at = position
                if is_shuffled:
                    at = int(order.index_at(seed or 0, stream, position, len(served)))
                yield dataset.read(split, served[at])

        return tf.data.Dataset.from_generator(read, output_signature=signature)

    return RecordSource(dataset_fn, splits=sorted(dataset.splits))


def _keep_served(ds, needs):
    """Records with the capabilities that a task needs (see `writer.CAPABILITIES`)."""
    import tensorflow as tf

    tests = {
        "caption": lambda example: tf.strings.length(tf.strings.strip(example["caption"])) > 0,
        "audio": lambda example: example["has_audio"] > 0,
        "video": lambda example: tf.shape(example["visual"])[0] > 1,
        "masked": lambda example: tf.strings.length(example["region"]) > 0,
        "inpainting": lambda example: tf.reduce_any(example["region"] == masking.INPAINTING),
        "outpainting": lambda example: tf.reduce_any(example["region"] == masking.OUTPAINTING),
        "structure": lambda example: tf.size(example["structure"]) > 0,
    }
    for name in sorted(needs):
        ds = ds.filter(tests[name])
    return ds


def _apply_objective(ds, entry, text_tokenizer):
    """Runs the numpy objective; features that the task does not use come out empty."""
    import tensorflow as tf

    empty = {
        name: np.zeros((0, *[1] * (rank - 1)), np.int32)
        for name, rank in TASK_FEATURE_RANKS.items()
    }

    def objective(clip_id, caption, *ids):
        record = {
            "clip_id": clip_id.decode("utf-8"),
            "caption": caption.decode("utf-8"),
            **dict(zip(_ID_NAMES, ids, strict=True)),
        }
        for name in features.CONDITIONS:  # flat where TFDS read them
            if record[name].size:
                record[name] = record[name].reshape(record["visual"].shape)
        fields = entry.objective(record, entry.task, text_tokenizer)
        return [np.asarray(fields.get(name, empty[name]), np.int32) for name in empty]

    def convert(example):
        inputs = [example[name] for name in ("clip_id", "caption", *_ID_NAMES)]
        arrays = tf.numpy_function(objective, inputs, [tf.int32] * len(empty))
        for array, rank in zip(arrays, TASK_FEATURE_RANKS.values(), strict=True):
            array.set_shape([None] * rank)
        return dict(zip(empty, arrays, strict=True))

    return ds.map(convert, num_parallel_calls=tf.data.AUTOTUNE)

"""SeqIO's path and the TF-free path give equal bytes. Only this test file imports TensorFlow."""

import itertools
import subprocess
import sys

import numpy as np
import pytest

from poet.data import batches, converter, groups, records, registry, seqio_tasks
from poet.tokens import sequence, tasks

NAMES = [f"poet_{name}" for name in tasks.TASKS]
SEED = 11
# SeqIO and TFDS call what newer numpy, protobuf and TensorFlow have deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def seqio():
    """SeqIO, imported late: it takes seconds."""
    return pytest.importorskip("seqio")


@pytest.fixture
def registered(seqio, dataset_dir, text_tokenizer, pretrain):
    """Names in SeqIO over the small array_record dataset; epochs enough for 100 batches."""
    return seqio_tasks.register_seqio(dataset_dir, text_tokenizer, num_epochs=100)


@pytest.fixture(scope="module")
def tfrecord_dir(tmp_path_factory, write):
    """The small dataset as tfrecord."""
    directory = tmp_path_factory.mktemp("tfrecord") / "dataset"
    write(directory, file_format="tfrecord")
    return directory


def _seqio_examples(seqio, name, plan, *, shuffle, text_dropout):
    dataset = seqio.get_dataset(
        name,
        converter.task_feature_lengths(plan),
        dataset_split="train",
        shuffle=shuffle,
        seed=SEED,
        feature_converter=converter.feature_converter(
            plan, task_name=name, text_dropout=text_dropout, seed=SEED
        ),
    )
    return dataset.as_numpy_iterator()


def _assert_same_bytes(seqio, name, num_steps, dataset, sizes, text_tokenizer):
    config = groups.AgdConfig(batch_tokens=400, seed=SEED, text_dropout=0.3)
    shared = registry.resolve(name)
    agd = batches.AgdBatches(dataset, shared, sizes, text_tokenizer, config)
    plan, size = agd.groups[name].plan, agd.groups[name].batch_size
    examples = _seqio_examples(seqio, name, plan, shuffle=True, text_dropout=0.3)
    for step in range(num_steps):
        _, want = agd.batch_at(step)
        rows = list(itertools.islice(examples, size))
        got = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
        assert got.keys() == want.keys()
        for key in want:
            assert (got[key].dtype, got[key].shape) == (want[key].dtype, want[key].shape)
            assert got[key].tobytes() == want[key].tobytes(), (step, key)


@pytest.mark.parametrize("name", NAMES)
def test_batches_have_equal_bytes(name, seqio, registered, dataset, sizes, text_tokenizer):
    _assert_same_bytes(seqio, name, 6, dataset, sizes, text_tokenizer)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_100_batches_have_equal_bytes(name, seqio, registered, dataset, sizes, text_tokenizer):
    _assert_same_bytes(seqio, name, 100, dataset, sizes, text_tokenizer)


def test_unshuffled_reading_is_file_order(seqio, registered, dataset, sizes, text_tokenizer):
    found, want = _unshuffled(seqio, "poet_video_to_audio", dataset, sizes, text_tokenizer)
    assert found == want


def test_tfds_source_reads_tfrecord(seqio, tfrecord_dir, sizes, text_tokenizer, pretrain):
    names = ["poet_outpainting", "poet_stylization", "poet_text_to_video", "poet_video_to_audio"]
    assert seqio_tasks.register_seqio(tfrecord_dir, text_tokenizer, task_names=names) == names
    assert isinstance(seqio.TaskRegistry.get(names[0]).source, seqio.TfdsDataSource)
    dataset = records.open_dataset(tfrecord_dir)
    for name in names:
        found, want = _unshuffled(seqio, name, dataset, sizes, text_tokenizer)
        # TFDS reads a few shards at a time, in turns.
        assert sorted(found) == sorted(want)


def _unshuffled(seqio, name, dataset, sizes, text_tokenizer):
    """Bytes of every example: SeqIO's, and those of the records in file order."""
    entry = registry.get(name)
    plan = sizes.plan(entry.task)
    found = _seqio_examples(seqio, name, plan, shuffle=False, text_dropout=0.0)
    want = []
    for index in dataset.having("train", entry.needs):
        record = dataset.read("train", index)
        fields = entry.objective(record, entry.task, text_tokenizer)
        want.append(sequence.assemble(plan, fields))
    keys = list(want[0])
    return [
        [b"".join(row[key].tobytes() for key in keys) for row in rows] for rows in (found, want)
    ]


def test_both_file_formats_hold_the_same_records(dataset, tfrecord_dir):
    other = records.open_dataset(tfrecord_dir)
    assert other.fingerprint == dataset.fingerprint and other.splits == dataset.splits
    for index in range(43):
        one, two = dataset.read("train", index), other.read("train", index)
        assert one["clip_id"] == two["clip_id"]
        np.testing.assert_array_equal(one["visual"], two["visual"])
        for field in ("audio", "masked", "structure"):
            np.testing.assert_array_equal(one[field], two[field])


def test_a_tfrecord_shard_cut_short_is_named(write, tmp_path):
    write(tmp_path / "cut", file_format="tfrecord")
    path = sorted((tmp_path / "cut").glob("*-train.*"))[0]
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match=f"{path.name} is corrupt.*ends inside record 19"):
        records.open_dataset(tmp_path / "cut").read("train", 3)


def test_mixture_is_seqios_mixture(seqio, registered):
    mixture = seqio.get_mixture_or_task("poet_pretrain")
    names = [entry.name for entry, _ in registry.resolve("poet_pretrain")]
    assert sorted(task.name for task in mixture.tasks) == sorted(names) and len(names) == 17
    mixed = mixture.get_dataset(None, "train", shuffle=True, seed=0, num_epochs=1)
    for example in itertools.islice(mixed.as_numpy_iterator(), 5):
        assert {name: array.ndim for name, array in example.items()} == {
            "visual": 3,
            "audio": 2,
            "text_ids": 1,
            "masked": 3,
            "structure": 3,
        }


def test_a_mixture_made_with_seqio_is_found(seqio, registered):
    rates = [("poet_unconditional", 1.0), ("poet_text_to_video", 3.0)]
    seqio.MixtureRegistry.remove("theirs")
    seqio.MixtureRegistry.add("theirs", rates)
    shares = {entry.name: share for entry, share in registry.resolve("theirs")}
    assert shares == {"poet_unconditional": 0.25, "poet_text_to_video": 0.75}


def test_importing_the_modules_imports_no_tensorflow():
    script = (
        "import sys; import tasks.registry, tasks.mixtures; from poet.data import converter;"
        "assert not {'tensorflow', 'seqio'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_seqios_own_checks_accept_a_task(seqio, registered, dataset):
    """`seqio.test_utils` on examples in file order, with the ids that the records hold."""
    from seqio import test_utils

    task = seqio.get_mixture_or_task("poet_audio_to_video")
    found = task.get_dataset(None, "validation", shuffle=False)
    none = np.zeros((0, 1, 1), np.int32)
    served = dataset.having("validation", registry.get("poet_audio_to_video").needs)
    want = []
    for index in served:
        record = dataset.read("validation", index)
        ids = {"visual": record["visual"], "audio": record["audio"]}
        want.append(ids | {"text_ids": none[:, 0, 0], "masked": none, "structure": none})
    test_utils.assert_dataset(found, want)


def test_seqios_offline_cache_holds_the_same_examples(seqio, registered, tmp_path):
    pytest.importorskip("apache_beam", exc_type=ImportError)
    import apache_beam as beam
    from absl import flags
    from apache_beam.runners.portability import fn_api_runner
    from seqio.scripts import cache_tasks_main

    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["test", f"--output_cache_dir={tmp_path}", "--max_shards=2"])
    with beam.Pipeline(runner=fn_api_runner.FnApiRunner()) as pipeline:
        cache_tasks_main.run_pipeline(
            pipeline, ["poet_inpainting"], str(tmp_path), completed_file_contents="done"
        )
    before = seqio.get_global_cache_dirs() if hasattr(seqio, "get_global_cache_dirs") else []
    seqio.set_global_cache_dirs([str(tmp_path)])
    try:
        task = seqio.get_mixture_or_task("poet_inpainting")

        def examples(is_cached):
            found = task.get_dataset(None, "train", shuffle=False, use_cached=is_cached)
            return sorted(
                tuple((name, value.shape, value.tobytes()) for name, value in sorted(row.items()))
                for row in found.as_numpy_iterator()
            )

        assert examples(True) == examples(False) and examples(True)
    finally:
        seqio.set_global_cache_dirs(before)


def test_seqios_evaluator_calls_the_metrics(seqio, dataset_dir, sizes, text_tokenizer, pretrain):
    seen = []

    def share_right(targets, predictions):
        seen.append((len(targets), len(predictions)))
        return {"share_right": float(np.mean(np.stack(targets) == np.stack(predictions)))}

    name = "poet_video_to_audio"
    seqio_tasks.register_seqio(
        dataset_dir, text_tokenizer, task_names=[name], metric_fns={name: [share_right]}
    )
    plan = sizes.plan(registry.get(name).task)
    evaluator = seqio.Evaluator(
        name,
        feature_converter=converter.feature_converter(plan, task_name=name),
        eval_split="validation",
        sequence_length=converter.task_feature_lengths(plan),
        target_field_name="audio",
    )
    rows = [np.asarray(example["audio"]) for example in evaluator.cached_task_datasets[name]]

    def predict(examples, model_feature_lengths=None):
        del model_feature_lengths
        return list(enumerate(0 * row if at % 2 else row for at, row in enumerate(rows)))

    metrics, *_ = evaluator.evaluate(compute_metrics=True, predict_fn=predict)
    found = metrics.result()[name] if hasattr(metrics, "result") else metrics[name]
    assert seen == [(len(rows), len(rows))] and 0.5 < found["share_right"] < 0.7

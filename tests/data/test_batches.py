import dataclasses
import shutil

import numpy as np
import pytest

from poet.data import batches, groups, masking, objectives, order, records, registry, writer
from poet.tokens import sequence, tasks, vocabulary
from poet.tokens.clip import ClipShape

# One name a plan: those left out are tasks of equal plans, which share a group.
NAMES = [
    f"poet_{name}"
    for name in tasks.TASKS
    if name not in ("image_to_video_without_text", "outpainting", "outpainting_with_text")
]


@pytest.fixture(scope="module")
def make(dataset, pretrain, sizes, text_tokenizer):
    """Keyword arguments of AgdConfig -> AgdBatches over the small dataset, tasks evenly mixed."""
    shared = [(registry.get(name), 1 / len(NAMES)) for name in NAMES]

    def make_batches(**options):
        config = groups.AgdConfig(**{"batch_tokens": 1200, **options})
        return batches.AgdBatches(dataset, shared, sizes, text_tokenizer, config)

    return make_batches


def _assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype
        np.testing.assert_array_equal(one[name], other[name])


def test_a_batch_is_its_records_assembled(make, dataset, sizes, text_tokenizer):
    agd, seen = make(seed=3), dict.fromkeys(NAMES, 0)
    for step in range(120):
        group, batch = agd.batch_at(step)
        entry, plan = registry.get(group), agd.groups[group].plan
        served, stream = dataset.having("train", entry.needs), f"order/train/{group}"
        for row in range(agd.groups[group].batch_size):
            at = int(order.index_at(3, stream, seen[group], len(served)))
            record = dataset.read("train", served[at])
            fields = objectives.take_parts(record, entry.task, text_tokenizer)
            want = sequence.assemble(plan, fields)
            _assert_equal({name: batch[name][row] for name in want}, want)
            seen[group] += 1
    assert all(seen.values())
    assert {name: at["examples"] for name, at in agd.positions(120).items()} == seen


def test_shapes_are_static_and_nothing_is_padding(make):
    agd = make()
    for step in range(30):
        group, batch = agd.batch_at(step)
        plan, size = agd.groups[group].plan, agd.groups[group].batch_size
        assert batch["decoder_input_tokens"].shape == (size, plan.length - 1)
        assert batch["text_ids"].shape == (size, plan.num_text_slots)
        assert batch["text_is_dropped"].shape == (size,)
        # <pad> stands in the text slots, which the text encoder fills, and nowhere else.
        is_pad = np.zeros(plan.length - 1, bool)
        if plan.text_slot:
            is_pad[plan.text_slot.start : plan.text_slot.stop] = True
        got = batch["decoder_input_tokens"] == vocabulary.PAD
        np.testing.assert_array_equal(got, np.broadcast_to(is_pad, got.shape))


def test_steps_can_be_asked_in_any_order(make):
    forward, backward = make(), make()
    later = {step: backward.batch_at(step) for step in reversed(range(20))}
    for step in range(20):
        group, batch = forward.batch_at(step)
        assert group == later[step][0] == forward.group_at(step)
        _assert_equal(batch, later[step][1])


def test_far_steps_agree_with_counting(make):
    agd = make()
    drawn = [agd.group_at(step) for step in range(9000)]
    want = {name: drawn.count(name) * agd.groups[name].batch_size for name in NAMES}
    assert {name: at["examples"] for name, at in make().positions(9000).items()} == want


def test_hosts_read_disjoint_rows_of_one_batch(make):
    whole = make(data_parallel_size=4)
    for count in (2, 4):
        hosts = [
            make(data_parallel_size=4, process_index=index, process_count=count)
            for index in range(count)
        ]
        for step in range(5):
            group, want = whole.batch_at(step)
            parts = [host.batch_at(step) for host in hosts]
            assert {name for name, _ in parts} == {group}
            joined = {name: np.concatenate([part[name] for _, part in parts]) for name in want}
            _assert_equal(joined, want)


@pytest.mark.parametrize("data_parallel_size", [1, 2, 8])
def test_tokens_of_a_step_are_level(make, data_parallel_size):
    agd = make(batch_tokens=40_000, data_parallel_size=data_parallel_size)
    for group in agd.groups.values():
        assert group.batch_size % data_parallel_size == 0
        assert abs(group.tokens_per_step / 40_000 - 1) < 0.05


def test_a_run_keeps_its_batches_on_other_devices(make):
    """Where two parts round to other rows than four, the rows of the run that goes on are kept."""
    four, two = make(data_parallel_size=4), make(data_parallel_size=2)
    sizes = {name: group.batch_size for name, group in four.groups.items()}
    assert sizes != {name: group.batch_size for name, group in two.groups.items()}
    kept = make(data_parallel_size=2, batch_sizes=sizes)
    for step in range(20):
        (name, one), (also, other) = four.batch_at(step), kept.batch_at(step)
        assert name == also
        _assert_equal(one, other)
    name, size = next(iter(sizes.items()))
    with pytest.raises(ValueError, match=f"has batches of {size} rows .* into {2 * size + 1} part"):
        make(data_parallel_size=2 * size + 1, batch_sizes=sizes)


def test_tiny_batches_come_as_near_as_they_can():
    assert groups.group_batch_size(10, 151, 1) == 1
    assert groups.group_batch_size(10, 151, 8) == 8
    assert groups.group_batch_size(370, 151, 1) == 2
    assert groups.group_batch_size(390, 151, 1) == 3


def test_weights_are_shares_of_the_steps(dataset, sizes, text_tokenizer, pretrain):
    weights = {"poet_text_to_video": 6.0, "poet_video_to_audio": 2.0, "poet_unconditional": 0.0}
    shared = registry.resolve("poet_pretrain", weights)
    config = groups.AgdConfig(batch_tokens=300)
    agd = batches.AgdBatches(dataset, shared, sizes, text_tokenizer, config)
    drawn = [agd.group_at(step) for step in range(4000)]
    assert "poet_unconditional" not in agd.groups
    want = dict(shared_names(shared))
    for name in agd.groups:
        assert abs(drawn.count(name) / 4000 - want[name]) < 0.025
    assert want["poet_text_to_video"] == pytest.approx(3 * want["poet_video_to_audio"])
    assert list(agd.groups)[0] == "poet_text_to_video"


def shared_names(shared):
    return [(entry.name, share) for entry, share in shared]


def test_curriculum_turns_from_images_to_video_after_a_quarter(make):
    agd = make(curriculum=groups.Curriculum(num_steps=4000))
    is_image = np.array([agd.group_at(step) == "poet_text_to_image" for step in range(4000)])
    assert abs(is_image[:1000].mean() - 0.9) < 0.03
    assert abs(is_image[1000:].mean() - 0.1) < 0.02
    rows = {row["group"]: row["share"] for row in agd.describe()}
    np.testing.assert_allclose(rows["poet_text_to_image"], (0.9, 0.1))
    np.testing.assert_allclose(rows["poet_unconditional"], (0.1 / 17, 0.9 / 17))


def test_curriculum_needs_both_kinds(dataset, sizes, text_tokenizer, pretrain):
    video = [pair for pair in pretrain if pair[0].name != "poet_text_to_image"]
    curriculum = groups.Curriculum(num_steps=100)
    shares = groups.phase_shares(video, curriculum)
    assert shares.shape == (2, 16)
    np.testing.assert_allclose(shares, [[share / 0.9 for _, share in video]] * 2)


def test_a_tenth_of_the_texts_is_dropped(make):
    dropped = batches.text_is_dropped(0, "poet_text_to_video", np.arange(5000), 0.1)
    assert abs(dropped.mean() - 0.1) < 0.015
    agd, seen = make(text_dropout=0.5), dict.fromkeys(NAMES, 0)
    for step in range(20):
        group, batch = agd.batch_at(step)
        positions = seen[group] + np.arange(agd.groups[group].batch_size)
        seen[group] += len(positions)
        want = np.zeros(len(positions), bool)
        if agd.groups[group].plan.task.has_text:
            want = batches.text_is_dropped(0, group, positions, 0.5)
        np.testing.assert_array_equal(batch["text_is_dropped"], want)


def test_tasks_with_equal_plans_share_a_group(dataset, sizes, text_tokenizer):
    task = dataclasses.replace(tasks.get("unconditional"), name="again")
    entries = [
        (registry.TaskEntry(name=name, task=value, needs=objectives.needs(value)), 0.5)
        for name, value in (("first", tasks.get("unconditional")), ("second", task))
    ]
    config = groups.AgdConfig(batch_tokens=300)
    agd = batches.AgdBatches(dataset, entries, sizes, text_tokenizer, config)
    assert agd.groups["first"].task_names == ("first", "second") and len(agd.groups) == 1
    assert {agd.group_at(step) for step in range(20)} == {"first"}
    # Each walks through the records in its own order.
    assert {name for name, at in agd.positions(20).items() if at["examples"]} == {
        "first",
        "second",
    }


def test_silent_clips_enter_no_audio_task(dataset, sizes, pretrain):
    for name in NAMES:
        entry = registry.get(name)
        if entry.task.uses_audio:
            (task,) = groups.size_task(entry, dataset, sizes)
            served = task.records["train"]
            assert 0 < len(served) < 43
            assert all(dataset.read("train", index)["has_audio"] for index in served)


def test_painting_takes_records_of_its_kind_of_region(dataset, sizes, pretrain):
    for name, regions in (
        ("poet_inpainting", masking.INPAINTING),
        ("poet_outpainting_with_text", masking.OUTPAINTING),
    ):
        (task,) = groups.size_task(registry.get(name), dataset, sizes)
        found = {dataset.read("train", index)["region"] for index in task.records["train"]}
        assert found == set(regions)


def _resized(records, grid, num_audio_frames):
    """Records of another size of clip; stills stay as they are."""
    rng = np.random.default_rng(0)
    for record in records:
        if len(record["visual"]) > 1:
            for field in ("visual", "masked", "structure"):
                if record[field].size:
                    record[field] = rng.integers(0, 64, grid, dtype=np.int32)
            if record["has_audio"]:
                record["audio"] = rng.integers(0, 16, (2, num_audio_frames), dtype=np.int32)
        yield record | {"clip_id": f"{record['clip_id']}_{grid}"}


def test_clips_of_several_sizes_train_in_groups_of_their_own(
    make_records, metadata, sizes, text_tokenizer, pretrain, tmp_path
):
    """17 and 41 frames, square and portrait: 32, 7 and 13 clips."""
    mixed = list(make_records(0, 40))
    mixed += _resized(make_records(1, 8), (11, 2, 2), 256)
    mixed += _resized(make_records(2, 16), (5, 4, 2), 106)
    writer.write_dataset(tmp_path / "mixed", {"train": mixed}, metadata)
    dataset = records.open_dataset(tmp_path / "mixed")
    config = groups.AgdConfig(batch_tokens=600)
    agd = batches.AgdBatches(dataset, pretrain, sizes, text_tokenizer, config)
    lengths = {
        name: group.plan.length for name, group in agd.groups.items() if "unconditional" in name
    }
    # Delimiters are 5, with <duration> or <res> 6.
    assert lengths == {
        "poet_unconditional@17x16x16": 20 + 5,
        "poet_unconditional@17x32x16": 40 + 6,
        "poet_unconditional@41x16x16": 44 + 6,
    }
    # Stills and first frames of one size are one task, whatever the clips' length.
    assert [name for name in agd.groups if "text_to_image" in name] == [
        "poet_text_to_image@17x16x16",
        "poet_text_to_image@1x32x16",
    ]
    rows = {row["group"]: row for row in agd.describe()}
    shares = [rows[f"poet_unconditional@{size}"]["share"] for size in ("17x16x16", "41x16x16")]
    assert shares[0] == pytest.approx(0.1 * 32 / 52) and shares[1] == pytest.approx(0.1 * 7 / 52)
    for step in range(60):
        group, batch = agd.batch_at(step)
        assert batch["decoder_input_tokens"].shape[1] == agd.groups[group].plan.length - 1


def test_joined_datasets_are_one(make_records, metadata, sizes, text_tokenizer, pretrain, tmp_path):
    """Records of the second follow those of the first; its other size trains beside it."""
    long = list(_resized(make_records(1, 8), (11, 2, 2), 256))
    for name, splits in (
        ("a", {"train": make_records(0, 20), "validation": make_records(3, 4)}),
        ("b", {"train": long}),
    ):
        writer.write_dataset(tmp_path / name, splits, metadata)
    both = records.open_dataset(f"{tmp_path / 'a'},{tmp_path / 'b'}")
    one, two = (records.open_dataset(tmp_path / name) for name in "ab")
    assert both.splits == {"train": 28, "validation": 4}
    assert both.fingerprint not in (one.fingerprint, two.fingerprint)
    for index in (0, 19, 20, 27):
        want = one.read("train", index) if index < 20 else two.read("train", index - 20)
        assert both.read("train", index)["clip_id"] == want["clip_id"]
    for needs in ({"audio"}, {"caption", "video", "inpainting"}):
        found = [both.read("train", index)["clip_id"] for index in both.having("train", needs)]
        parts = [
            [d.read("train", at)["clip_id"] for at in d.having("train", needs)] for d in (one, two)
        ]
        assert found == parts[0] + parts[1] and parts[1]
    config = groups.AgdConfig(batch_tokens=600)
    agd = batches.AgdBatches(both, pretrain, sizes, text_tokenizer, config)
    assert {"poet_unconditional@17x16x16", "poet_unconditional@41x16x16"} <= set(agd.groups)
    with pytest.raises(ValueError, match="Record 28 is outside split 'train'"):
        both.read("train", 28)
    with pytest.raises(ValueError, match="has no split 'test', only"):
        both.having("test", set())
    other = {"fingerprints": {"visual": "other"}}
    writer.write_dataset(tmp_path / "c", {"train": make_records(0, 3)}, other)
    with pytest.raises(ValueError, match="has fingerprints .*/c has .*same tokenizers"):
        records.open_dataset(f"{tmp_path / 'a'},{tmp_path / 'c'}")


def test_tasks_that_do_not_fit_the_clips_are_left_out(
    make_records, metadata, sizes, text_tokenizer, pretrain, tmp_path
):
    short = list(_resized(make_records(0, 10), (3, 2, 2), 56))
    writer.write_dataset(tmp_path / "short", {"train": short}, metadata)
    dataset, config = records.open_dataset(tmp_path / "short"), groups.AgdConfig(batch_tokens=300)
    agd = batches.AgdBatches(dataset, pretrain, sizes.at((3, 2, 2)), text_tokenizer, config)
    assert "has 3 latent visual frames" in agd.left_out["poet_future_prediction_13"]
    assert "poet_future_prediction_5" in agd.groups


def test_tasks_without_records_are_left_out(
    make_records, metadata, sizes, text_tokenizer, pretrain, tmp_path
):
    stills = [record for record in make_records(0, 43) if record["visual"].shape[0] == 1]
    writer.write_dataset(tmp_path / "stills", {"train": stills}, metadata)
    dataset, config = records.open_dataset(tmp_path / "stills"), groups.AgdConfig(batch_tokens=300)
    agd = batches.AgdBatches(dataset, pretrain, sizes, text_tokenizer, config)
    assert list(agd.groups) == ["poet_text_to_image"]
    want = "no record of split 'train' has audio and video"
    assert agd.left_out["poet_video_to_audio"] == want
    video = [pair for pair in pretrain if pair[0].name != "poet_text_to_image"]
    with pytest.raises(ValueError, match="No task can be trained on .*stills.*has video"):
        batches.AgdBatches(dataset, video, sizes, text_tokenizer, config)


def test_eval_batches_hold_each_example_once(make, dataset):
    agd = make(seed=5)
    for name in NAMES:
        num_served = len(dataset.having("validation", registry.get(name).needs))
        group, plan = agd.groups[name], agd.groups[name].plan
        found = agd.eval_batches(name, "validation", 100)
        assert len(found) == -(-num_served // group.batch_size)
        weights = np.concatenate([batch["decoder_loss_weights"] for _, batch in found])
        counts = (weights == plan.loss_weights).all(axis=1)
        assert counts[:num_served].all() and not weights[num_served:].any()
        rows = np.concatenate([batch["decoder_input_tokens"] for _, batch in found])[:num_served]
        assert len(np.unique(rows, axis=0)) == num_served
        assert not any(batch["text_is_dropped"].any() for _, batch in found)
        # The same examples whatever the run's seed.
        other_seed = make(seed=6).eval_batches(name, "validation", 100)
        for one, other in zip(found, other_seed, strict=True):
            _assert_equal(one[1], other[1])
    assert agd.eval_batches(NAMES[0], "validation", 0) == []
    with pytest.raises(ValueError, match="no split 'test', only .'train', 'validation'"):
        agd.eval_batches(NAMES[0], "test", 1)
    with pytest.raises(ValueError, match="has no split 'test', only"):
        make(split="test")
    with pytest.raises(ValueError, match="Task 'sing' is not trained here"):
        agd.eval_batches("sing", "validation", 1)


def test_refuses_a_dataset_of_another_size(dataset, pretrain, sizes, text_tokenizer):
    config = groups.AgdConfig(batch_tokens=300)
    for change, message in (
        ({"clip": ClipShape(17, 32, 32)}, "ids of shape 1x2x2, 5x2x2.*have 1x4x4 or 5x4x4"),
        (
            {"sound": dataclasses.replace(sizes.sound, num_levels=1)},
            "has 2 audio levels, the model 1",
        ),
    ):
        other = dataclasses.replace(sizes, **change)
        with pytest.raises(ValueError, match=message):
            batches.AgdBatches(dataset, pretrain, other, text_tokenizer, config)
    with pytest.raises(ValueError, match="need a text tokenizer, got None"):
        batches.AgdBatches(dataset, pretrain, sizes, None, config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_tokens": 0}, "batch_tokens=0 and data_parallel_size=1 must be at least 1"),
        ({"batch_tokens": 1, "text_dropout": 1.5}, "share from 0 to 1, got 1.5"),
        ({"batch_tokens": 1, "process_count": 2}, "Process 0 of 2 cannot get equal rows"),
        ({"batch_tokens": 1, "process_index": 1}, "Process 1 of 1 cannot get equal rows"),
    ],
)
def test_refuses_unfit_config(options, message):
    with pytest.raises(ValueError, match=message):
        groups.AgdConfig(**options)


def test_refuses_an_unfit_curriculum():
    with pytest.raises(ValueError, match="late_image_share must be a share from 0 to 1, got 2"):
        groups.Curriculum(num_steps=1, late_image_share=2)


@pytest.fixture
def damaged(dataset_dir, tmp_path):
    """The small dataset with a record that is not what was written; (dataset, its position)."""
    copy = shutil.copytree(dataset_dir, tmp_path / "damaged")
    path = copy / "index" / "train.crc32.npy"
    checksums = np.load(path)
    checksums[5] += 1
    np.save(path, checksums)
    return records.open_dataset(copy), 5


def test_a_bad_record_stops_the_run_and_is_named(damaged, pretrain, sizes, text_tokenizer):
    dataset, index = damaged
    agd = batches.AgdBatches(
        dataset, pretrain, sizes, text_tokenizer, groups.AgdConfig(batch_tokens=4000)
    )
    with pytest.raises(records.CorruptRecordError, match="Record 5 of .*train.*on_bad_record=skip"):
        for step in range(200):
            agd.batch_at(step)


def test_a_bad_record_is_skipped_counted_and_changes_nothing_else(
    damaged, dataset, pretrain, sizes, text_tokenizer
):
    bad_dataset, index = damaged
    config = groups.AgdConfig(batch_tokens=4000, on_bad_record="skip")
    skipping = batches.AgdBatches(bad_dataset, pretrain, sizes, text_tokenizer, config)
    whole = batches.AgdBatches(dataset, pretrain, sizes, text_tokenizer, config)
    num_rows = num_equal = 0
    for step in range(60):
        (group, one), (same_group, other) = skipping.batch_at(step), whole.batch_at(step)
        assert group == same_group
        rows = (one["decoder_input_tokens"] == other["decoder_input_tokens"]).all(axis=1)
        num_rows, num_equal = num_rows + len(rows), num_equal + rows.sum()
        _assert_equal(one, skipping.batch_at(step)[1])
    assert list(skipping.bad_records) == [("train", index)]
    assert num_rows * 0.9 < num_equal < num_rows


def test_a_mixture_that_the_dataset_cannot_serve_is_refused(
    make_records, metadata, sizes, text_tokenizer, pretrain, tmp_path
):
    silent = [
        record | {"audio": np.zeros((2, 0), np.int32), "has_audio": 0}
        for record in make_records(0, 20)
    ]
    writer.write_dataset(tmp_path / "silent", {"train": silent}, metadata)
    dataset = records.open_dataset(tmp_path / "silent")
    config = groups.AgdConfig(batch_tokens=400, on_unserved_task="raise")
    with pytest.raises(ValueError, match="no record of split 'train' has audio and video. Prepare"):
        batches.AgdBatches(dataset, pretrain, sizes, text_tokenizer, config)
    with pytest.raises(
        ValueError, match="on_bad_record must be one of .'raise', 'skip'., got 'go'"
    ):
        groups.AgdConfig(batch_tokens=1, on_bad_record="go")


def test_one_epoch_over_changing_hosts_reads_every_record_once(dataset, sizes, text_tokenizer):
    """1, 2, then 4 hosts, each taking over at a step, with records of mixed capabilities."""
    registry.load_task_modules(["tasks.paper", "tasks.mixtures"])
    entry = registry.get("poet_video_to_audio")
    num_records = len(dataset.having("train", entry.needs))
    seen = []

    def note(record, task, text_tokenizer):
        seen.append(record["clip_id"])
        return objectives.take_parts(record, task, text_tokenizer)

    noting = dataclasses.replace(entry, objective=note)
    (sized,) = groups.size_task(entry, dataset, sizes)
    size = 4
    num_steps = -(-num_records // size)
    for step in range(num_steps):
        num_hosts = (1, 2, 4)[3 * step // num_steps]
        for host in range(num_hosts):
            config = groups.AgdConfig(
                batch_tokens=size * sized.plan.length,
                seed=7,
                data_parallel_size=4,
                process_index=host,
                process_count=num_hosts,
            )
            agd = batches.AgdBatches(dataset, [(noting, 1.0)], sizes, text_tokenizer, config)
            agd.batch_at(step)
    want = [dataset.read("train", at)["clip_id"] for at in dataset.having("train", entry.needs)]
    assert len(set(want)) == num_records and sorted(seen[:num_records]) == sorted(want)

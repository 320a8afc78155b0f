import textwrap

import pytest

from poet.data import batches, groups, registry
from poet.tokens import tasks


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    """Each test starts from what is registered and leaves no trace."""
    registry.load_task_modules(["tasks.paper", "tasks.mixtures"])
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    monkeypatch.setattr(registry, "_LOADED_FILES", set())


_USER_TASK = """
    import numpy as np

    from poet.data import objectives, registry
    from poet.tokens import tasks, vocabulary


    def backwards(record, task, text_tokenizer):
        fields = objectives.take_parts(record, task, text_tokenizer)
        return {**fields, "visual": fields["visual"][::-1]}


    registry.register(
        "my_backwards",
        tasks.Task(
            "my_backwards",
            vocabulary.TASK.start + 40,
            inputs=(tasks.Part("visual", "visual", 0, 1),),
            outputs=(tasks.Part("visual", "visual", 1),),
        ),
        objective=backwards,
    )
"""


@pytest.mark.parametrize("how", ["path", "module"])
def test_a_users_own_file_trains(how, dataset, sizes, tmp_path, monkeypatch):
    (tmp_path / "my_tasks.py").write_text(textwrap.dedent(_USER_TASK))
    monkeypatch.chdir(tmp_path)
    names = [str(tmp_path / "my_tasks.py")] if how == "path" else ["my_tasks"]
    registry.load_task_modules(names)
    registry.load_task_modules(names)
    config = groups.AgdConfig(batch_tokens=300)
    shared = registry.resolve("my_backwards")
    agd = batches.AgdBatches(dataset, shared, sizes, None, config)
    group, batch = agd.batch_at(0)
    served = dataset.capability("train", "video")
    plan = agd.groups[group].plan
    first = plan.slots[0]
    codes = batch["decoder_input_tokens"][:, first.start : first.stop] - first.ids.start
    last_frames = {tuple(dataset.read("train", at)["visual"][-1].ravel()) for at in served}
    assert {tuple(row) for row in codes.tolist()} <= last_frames
    assert plan.task.prompt == 104


def test_mixtures_nest_and_weights_are_relative():
    registry.register_mixture("two", {"poet_unconditional": 1.0, "poet_text_to_video": 3.0})
    registry.register_mixture("nested", {"two": 1.0, "poet_unconditional": 1.0})
    shares = {entry.name: share for entry, share in registry.resolve("nested")}
    assert shares == {"poet_unconditional": 0.625, "poet_text_to_video": 0.375}
    single = registry.resolve("poet_unconditional")
    assert [(entry.name, share) for entry, share in single] == [("poet_unconditional", 1.0)]


def test_weights_may_be_replaced():
    weights = {"poet_video_to_audio": 5.0, "poet_unconditional": 0.0}
    registry.register_mixture("two", {"poet_unconditional": 1.0, "poet_video_to_audio": 1.0})
    assert [(entry.name, share) for entry, share in registry.resolve("two", weights)] == [
        ("poet_video_to_audio", 1.0)
    ]
    with pytest.raises(ValueError, match=r"given for \['poet_sing'\], but 'two' has only"):
        registry.resolve("two", {"poet_sing": 1.0})
    with pytest.raises(ValueError, match="All tasks of 'poet_unconditional' have the weight 0"):
        registry.resolve("poet_unconditional", {"poet_unconditional": 0.0})


def test_registering_twice_is_only_fine_if_equal():
    task = tasks.get("unconditional")
    assert registry.register("poet_unconditional", task) == registry.get("poet_unconditional")
    with pytest.raises(ValueError, match="'poet_unconditional' is taken by another"):
        registry.register("poet_unconditional", tasks.get("text_to_video"))


def test_refuses_unknown_names():
    with pytest.raises(ValueError, match="Unknown task or mixture 'poet_sing'; known are: poet_"):
        registry.get("poet_sing")
    with pytest.raises(ValueError, match="Unknown task or mixture 'poet_sing'"):
        registry.register_mixture("mine", {"poet_sing": 1.0})


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, "needs at least one task"),
        ({"poet_unconditional": -1.0}, "must be a finite number from 0 on"),
        ({"poet_unconditional": float("nan")}, "must be a finite number from 0 on"),
    ],
)
def test_refuses_unfit_mixtures(weights, message):
    with pytest.raises(ValueError, match=message):
        registry.register_mixture("mine", weights)


def test_refuses_missing_task_files(tmp_path):
    for name in ("no_such_tasks", "tasks.no_such", str(tmp_path / "gone.py")):
        with pytest.raises(ValueError, match=f"Task file '{name}' was not found.*TASK_MODULES"):
            registry.load_task_modules([name])


def test_a_task_files_own_errors_come_through(tmp_path, monkeypatch):
    (tmp_path / "needs_more.py").write_text("import a_module_that_nobody_has\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_module_that_nobody_has"):
        registry.load_task_modules(["needs_more"])
    (tmp_path / "broken.py").write_text("1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        registry.load_task_modules([str(tmp_path / "broken.py")])

import pathlib

import pytest

FILES = sorted((pathlib.Path(__file__).parents[2] / "gin" / "tasks").glob("*.gin"))


@pytest.fixture
def gin():
    """Gin, empty before and after."""
    import gin

    gin.clear_config()
    yield gin
    gin.clear_config()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_task_file_names_tasks_that_exist(path, gin):
    from poet.main import commands, gin_files
    from tasks import registry

    commands.read_gin([str(gin_files.find(str(path)))], ["TRAIN_STEPS = 100"])
    registry.load_task_modules(gin.query_parameter("TASK_MODULES/macro.value"))
    assert registry.resolve(gin.query_parameter("MIXTURE_OR_TASK_NAME/macro.value"))


def test_there_are_task_files():
    assert {"pretrain", "pretrain_curriculum"} <= {path.stem for path in FILES}

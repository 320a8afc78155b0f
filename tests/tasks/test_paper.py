import pytest

from poet.tokens import tasks as tokens_tasks
from tasks import mixtures, paper, registry


@pytest.mark.parametrize("name", paper.NAMES)
def test_every_name_is_its_task(name):
    entry = registry.get(name)
    assert name == f"poet_{entry.task.name}"
    assert entry.task is tokens_tasks.TASKS[entry.task.name]


def test_pretrain_mixes_all_six_evenly():
    shares = {entry.name: share for entry, share in registry.resolve(mixtures.PRETRAIN.name)}
    assert shares == pytest.approx(dict.fromkeys(paper.NAMES, 1 / 6)) and len(shares) == 6

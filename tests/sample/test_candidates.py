import numpy as np
import pytest

from poet.sample import candidates, jobs
from poet.sample.engine import Engine
from poet.sample.requests import SamplingRequest


class LotteryEngine(Engine):
    """The codes of a try are its id, its likelihood is told by a table."""

    def __init__(self, likelihood):
        self.likelihood, self.calls = likelihood, []

    def generate(self, name, given, numbers, sampling, place=0, with_likelihood=False):
        self.calls.append((given, list(numbers), [s.seed for s in sampling]))
        made = {"visual": np.asarray(numbers)[:, None, None, None] + np.zeros((1, 2, 1, 1), int)}
        if with_likelihood:
            made["log_likelihood"] = np.asarray(self.likelihood, np.float32)
        return made


ASKS = [jobs.Ask(name="a", number=5), jobs.Ask(name="b", number=(2 << 32) + 1)]
SAMPLINGS = [SamplingRequest(seed=1), SamplingRequest(seed=2)]


def kept(engine, tries, pick=None):
    given = {"visual": np.arange(2)[:, None], "prompts": ["x", "y"]}
    choice = candidates.Choice(tries, pick)
    made = candidates.generate(engine, "t", given, ASKS, SAMPLINGS, 0, choice)
    return made["visual"][:, 0, 0, 0].tolist()


def test_the_likeliest_is_kept_for_each_request():
    engine = LotteryEngine([-3, -1, -2, -7, -8, -9])
    assert kept(engine, 3) == [5 + (1 << 48), (2 << 32) + 1]
    given, numbers, seeds = engine.calls[0]
    assert given["prompts"] == ["x"] * 3 + ["y"] * 3
    assert given["visual"][:, 0].tolist() == [0] * 3 + [1] * 3
    assert seeds == [1, 1, 1, 2, 2, 2] and len(set(numbers)) == 6
    assert max(numbers) < 2**63


def test_one_try_is_plain():
    engine = LotteryEngine([])
    assert kept(engine, 1) == [5, (2 << 32) + 1]


def test_a_person_may_pick():
    seen = []

    def pick(place, codes):
        seen.append(codes["visual"].shape)
        return 2

    assert kept(LotteryEngine([0] * 6), 3, pick) == [5 + (2 << 48), (2 << 32) + 1 + (2 << 48)]
    assert seen == [(3, 2, 1, 1)] * 2


def test_a_preview_is_of_one_try(tmp_path):
    with pytest.raises(ValueError, match="A preview shows one try"):
        jobs.Job(task="t", sampling=SamplingRequest(), out=tmp_path, tries=2, has_preview=True)

"""Metrics that a person brings: their numbers by hand, their protocols, and what is refused."""

import re

import numpy as np
import pytest

from poet.evals import metric_weights, metrics, plugins
from poet.evals.metric import Case, Clip

HALF = """
import numpy as np

def poet_metrics(given):
    factor = float(given.weights("half").read_text())

    def distance(real, generated):
        return factor * np.abs(real.astype(float) - generated).mean(axis=(1, 2, 3))

    def features(clips):
        return clips.mean(axis=(2, 3, 4))

    return [
        given.picture_distance("half", distance, says="mean-step", weights="half"),
        given.frechet("levels", features, says="mean-levels", num_frames=(2, 4)),
    ]
"""


def written(folder, text, name="mine.py"):
    (folder / name).write_text(text)
    return str(folder / name)


def clip_of(*levels):
    frames = np.broadcast_to(
        np.array(levels, np.uint8)[:, None, None, None], (len(levels), 8, 8, 3)
    )
    return Clip(name="a", frames=frames, frames_per_second=8.0)


@pytest.fixture
def half(tmp_path):
    """The plug-in above with its weights: a distance and features."""
    (tmp_path / "half.txt").write_text("0.5")
    files = {"half": tmp_path / "half.txt"}
    return plugins.load([written(tmp_path, HALF)], files, batch_size=2)


def test_numbers_by_hand(half):
    distance, levels = half.metrics
    cases = [
        Case(clip=clip_of(10, 40), real=clip_of(20, 20)),
        Case(clip=clip_of(4, 4), real=clip_of(4, 4)),
    ]
    # Half of 10 and of 20, mean 7.5; and of nothing.
    np.testing.assert_array_equal(distance.source.rows(cases), [[[7.5, 1]], [[0, 1]]])
    found = levels.source.rows([*cases, Case(clip=clip_of(1, 3))])
    np.testing.assert_array_equal(np.concatenate(found), [[10, 40], [4, 4], [1, 3]])
    assert distance.source.needs.has_pairs and distance.source.sides == ("generated",)
    assert levels.source.needs.num_frames == (2, 4) and levels.source.sides == ("real", "generated")
    assert (levels.summary, levels.better, distance.summary) == ("frechet", "lower", "mean")


def test_weights_and_code_are_in_the_protocol(half, tmp_path):
    code, weights = (metric_weights.sha256_of(tmp_path / name) for name in ("mine.py", "half.txt"))
    distance, levels = half.metrics
    seen = f"half-{weights[:12]}/mean-step/plugin-{code[:12]}"
    assert distance.protocol == f"picture-distance/{seen}/mean-of-frames"
    assert levels.protocol == f"frechet/levels/mean-levels/plugin-{code[:12]}"
    about = distance.source.about
    assert (about["weights_sha256"], about["plugin_sha256"]) == (weights, code)
    assert about["weights"].endswith("half.txt") and "Poet checks neither" in about["weights_note"]
    assert "weights_sha256" not in levels.source.about
    # Other weights, and other code, are other protocols.
    (tmp_path / "half.txt").write_text("0.25")
    other = plugins.load([written(tmp_path, HALF + "#")], {"half": tmp_path / "half.txt"})
    assert not {m.protocol for m in half.metrics} & {m.protocol for m in other.metrics}


def test_they_are_chosen_beside_the_others(half, tmp_path):
    files = {"half": tmp_path / "half.txt"}
    names = [m.name for m in metrics.choose(["levels", "psnr", "half"], files, plugins=half)]
    assert names == ["psnr", "half", "levels"]
    assert [m.name for m in metrics.choose(["all"], files, plugins=half)][-2:] == ["half", "levels"]
    with pytest.raises(ValueError, match="Expected metrics among all, .*, half, levels; got lpips"):
        metrics.choose(["lpips"], files, plugins=half)
    with pytest.raises(ValueError, match="half=... is none of i3d, .*, and no plug-in asks for it"):
        metrics.choose(["psnr"], files)


def test_modules_by_name_and_functions_of_another_name(tmp_path, monkeypatch):
    """Of the working directory, in a folder, and one that is installed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own").mkdir()
    text = "def two(given):\n    return given.frechet('two', lambda clips: clips, says='x')\n"
    written(tmp_path / "own", text)
    (found,) = plugins.load(["own.mine:two"], {}).metrics
    assert found.name == "two" and found.source.about["plugin"] == "own.mine:two"
    monkeypatch.syspath_prepend(str(tmp_path / "own"))
    (tmp_path / "own" / "installed_metrics.py").write_text(text.replace("two(", "poet_metrics("))
    assert plugins.load(["installed_metrics"], {}).metrics[0].name == "two"


ONE = "given.picture_distance('one', lambda a, b: [0.0], says='x')"
REFUSED = [
    ("", "mine.py has no function poet_metrics; define poet_metrics.given."),
    ("poet_metrics = 3", "has no function poet_metrics"),
    (
        "def poet_metrics(): pass",
        "is called with one argument, .* define it as poet_metrics.given.",
    ),
    ("def poet_metrics(given): return 3", "gave int, expected a list of metrics"),
    ("def poet_metrics(given): return ['psnr']", "gave list, expected a list of metrics"),
    ("import nothing_like_it", "mine.py needs nothing_like_it, which is not installed here; inst"),
    ("def poet_metrics(given): import nothing_like_it", "could not be loaded, ModuleNotFoundErr"),
    ("def", "could not be loaded, SyntaxError: .*--debug shows where"),
    ("1 / 0", "could not be loaded, ZeroDivisionError: division by zero; mend it"),
    ("def poet_metrics(given): return {}[1]", "could not be loaded, KeyError: 1; mend it"),
    (
        "def poet_metrics(given): given.weights('w')",
        "needs weights that it calls w, .* --weights w=F",
    ),
    ("def poet_metrics(given): given.weights('gone')", "weights of gone at .*nowhere, found none"),
    (f"def poet_metrics(given): return [{ONE}, {ONE}]", "the metric one more than once; rename"),
    (
        f"def poet_metrics(given): return {ONE.replace('one', 'a.b')}",
        "calls a metric 'a.b', .*name of",
    ),
    (
        f"def poet_metrics(given): return {ONE.replace('x', 'a b')}",
        "says 'a b'; expected .*without sp",
    ),
]


@pytest.mark.parametrize(("text", "says"), REFUSED)
def test_plugins_that_do_not_fit_are_refused_in_one_sentence(tmp_path, text, says):
    with pytest.raises(ValueError) as error:
        plugins.load([written(tmp_path, text)], {"gone": tmp_path / "nowhere"})
    assert re.search(says, str(error.value)) and "\n" not in str(error.value)


def test_modules_that_are_not_there_are_refused():
    for name in ("no_such_metrics", "no_such.metrics", "no_such_metrics.py"):
        says = (
            f"Plug-in {re.escape(name)} was not found: neither an installed module nor the file /"
        )
        with pytest.raises(ValueError, match=says):
            plugins.load([name], {})


def test_a_name_of_ours_is_refused(tmp_path):
    text = f"def poet_metrics(given): return {ONE.replace('one', 'psnr')}"
    with pytest.raises(ValueError, match="metric is called psnr as one of ours; rename it"):
        metrics.choose(["psnr"], plugins=plugins.load([written(tmp_path, text)], {}))


def test_answers_of_another_shape_are_refused(tmp_path):
    text = "def poet_metrics(given): return [{}]"
    cases = [Case(clip=clip_of(1, 2), real=clip_of(1, 2))]
    for made, says in (
        (
            ONE,
            r"one of plug-in .*mine.py gave an array of shape \(1,\), expected a number for each",
        ),
        (ONE, r" of 2 pictures, \[2\]; change what its function returns"),
        (
            "given.frechet('f', lambda clips: clips[:, 0, 0], says='x')",
            r"f of plug-in .* gave an array of shape \(8, 8, 3\), expected a row of features for",
        ),
        ("given.frechet('f', lambda clips: [[1.0]], says='x')", r"shape \(1, 1\), .* \[8, D\]"),
    ):
        (metric,) = plugins.load([written(tmp_path, text.format(made))], {}).metrics
        with pytest.raises(ValueError, match=says):
            metric.source.rows(cases)

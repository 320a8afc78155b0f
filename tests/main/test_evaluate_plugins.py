"""`poet evaluate --plugin` with the two plug-ins of docs/evaluation.md, on stand-ins for networks.

The stand-ins have the names and the shapes of torch, lpips and transformers as far as the page uses
them; its code runs as it is printed.
"""

import contextlib
import json
import pathlib
import re
import sys
import types

import numpy as np
import pytest

from poet.evals import metric_weights
from poet.main import cli
from poet.media import images, write

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "evaluation.md"


class Tensor:
    """What the page asks of a tensor."""

    def __init__(self, values):
        self.values = np.asarray(values)

    def permute(self, *axes):
        return Tensor(self.values.transpose(axes))

    def __truediv__(self, number):
        return Tensor((self.values / number).astype(np.float32))

    def __sub__(self, number):
        return Tensor(self.values - np.float32(number))

    def flatten(self):
        return Tensor(self.values.ravel())

    def mean(self, axis):
        return Tensor(self.values.mean(axis))

    def numpy(self):
        return self.values


class Lpips:
    """Half the mean step, times a weight; NCHW in [-1, 1] -> [N, 1, 1, 1]."""

    calls = []

    def __init__(self, *, net, pretrained, pnet_rand, verbose):
        assert (net, pretrained, pnet_rand, verbose) == ("alex", False, True, False)

    def load_state_dict(self, state):
        self.weight = state["weight"]

    def __call__(self, one, other):
        self.calls.append(len(one.values))
        assert one.values.shape[1] == 3 and np.abs(one.values).max() <= 1
        steps = np.abs(one.values - other.values).mean((1, 2, 3), keepdims=True)
        return Tensor(self.weight * steps / 2)


class VideoMae:
    """Two tokens a clip, of the mean colours and twice those; BTCYX in [0, 1] -> [B, 2, 3]."""

    @classmethod
    def from_pretrained(cls, folder, *, local_files_only):
        assert local_files_only and (folder / "config.json").is_file()
        return cls()

    def eval(self):
        return self

    def __call__(self, pixels):
        values = pixels.values
        assert values.shape[1:] == (16, 3, 224, 224) and values.dtype == np.float32
        assert 0 <= values.min() and values.max() <= 1
        colours = values.mean((1, 3, 4))
        return types.SimpleNamespace(last_hidden_state=Tensor(np.stack([colours, 2 * colours], 1)))


@pytest.fixture
def page(tmp_path, monkeypatch):
    """The page's plug-ins as files, and stand-ins under the names that they import."""
    torch = types.ModuleType("torch")
    torch.from_numpy, torch.no_grad = Tensor, contextlib.nullcontext
    torch.load = lambda path, weights_only: json.loads(path.read_text()) if weights_only else None
    lpips, transformers = types.ModuleType("lpips"), types.ModuleType("transformers")
    lpips.LPIPS, transformers.VideoMAEModel = Lpips, VideoMae
    for module in (torch, lpips, transformers):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    blocks = re.findall(r'```python\n("""(\w+\.py): .*?)```', PAGE.read_text(), re.DOTALL)
    for text, name in blocks:
        (tmp_path / name).write_text(text)
    assert [name for _, name in blocks] == ["lpips_metric.py", "content_fvd.py"]
    Lpips.calls.clear()
    return tmp_path


def evaluate(folder, out, *words):
    argv = [f"--real={folder / 'real'}", f"--generated={folder / 'made'}", f"--out={out}"]
    return cli.main(["evaluate", *argv, *words])


def entries(out):
    return json.loads((out / "result.json").read_text())["metrics"]


def test_lpips_of_the_page(page, capsys):
    for number in range(3):
        for side, level in (("real", 100), ("made", 100 + 51 * number)):
            pixels = np.full((16, 16, 3), level, np.uint8)
            images.write_image(page / side / f"{number}.png", pixels)
    weights = page / "lpips_alex.pt"
    weights.write_text('{"weight": 0.5}')
    words = [f"--plugin={page / 'lpips_metric.py'}", "--metrics=lpips,psnr", "--num_frames=1"]
    words += ["--weights", f"lpips={weights}"]
    assert evaluate(page, page / "out", *words) == 0
    found = entries(page / "out")["lpips"]
    # Steps of 0, 0.2 and 0.4 of 1, times the weight.
    assert found["mean"] == pytest.approx(0.1, rel=1e-6) and found["low"] < 0.1 < found["high"]
    sha256 = metric_weights.sha256_of(weights)
    code = metric_weights.sha256_of(page / "lpips_metric.py")
    seen = f"lpips-{sha256[:12]}/alex-0.1/plugin-{code[:12]}"
    assert found["protocol"].startswith(f"picture-distance/{seen}/mean-of-frames/1f-at-8fps/16x16")
    assert (found["weights_sha256"], found["plugin_sha256"]) == (sha256, code)
    assert "Poet checks neither" in capsys.readouterr().err
    # The same command measures nothing again; other weights do, and are not put beside these.
    assert evaluate(page, page / "out", *words) == 0 and len(Lpips.calls) == 3
    weights.write_text('{"weight": 0.25}')
    assert evaluate(page, page / "other", *words) == 0 and len(Lpips.calls) == 6
    results = [str(page / name / "result.json") for name in ("out", "other")]
    assert cli.main(["evaluate", "--compare", *results]) == 2
    assert "lpips of the first and of the second are not of one proto" in capsys.readouterr().err
    assert cli.main(["evaluate", "--compare", *results, "--metrics=psnr"]) == 0


def test_content_debiased_fvd_of_the_page(page):
    (page / "videomae").mkdir()
    (page / "videomae" / "config.json").write_text("{}")
    for number in range(3):
        for side, level in (("real", 50), ("made", 101)):
            frames = np.full((16, 16, 16, 3), level + 10 * number, np.uint8)
            write.write_video(page / side / f"{number}.mp4", frames, 8.0)
    words = [f"--plugin={page / 'content_fvd.py'}", "--metrics=content_fvd", "--batch_size=2"]
    words += ["--weights", f"videomae={page / 'videomae'}"]
    assert evaluate(page, page / "out", *words, "--num_frames=16") == 0
    found = entries(page / "out")["content_fvd"]
    # Means 1.5 x 0.2 apart in each of three colours, equal spread. H.264 moves levels by one or so.
    assert found["mean"] == pytest.approx(3 * 0.3**2, rel=0.05)
    assert re.match(r"frechet/content_fvd-\w{12}/mean-of-tokens/\S+/N=3x1$", found["protocol"])
    assert found["num_real"] == found["num_generated"] == 3


def test_refusals_come_before_anything_is_measured(page, capsys):
    for side in ("real", "made"):
        images.write_image(page / side / "a.png", np.zeros((16, 16, 3), np.uint8))
    plugin = f"--plugin={page / 'content_fvd.py'}"
    for words, says in (
        (["--plugin=no_such_metrics"], "Plug-in no_such_metrics was not found: neither an install"),
        ([plugin], "needs weights that it calls videomae, and none were given: pass --weights"),
        (
            [plugin, "--weights", f"videomae={page / 'none'}"],
            "weights of videomae at .*none, found",
        ),
    ):
        assert evaluate(page, page / "out", "--metrics=content_fvd", *words) == 2
        (error,) = capsys.readouterr().err.splitlines()
        assert re.search(says, error) and error.startswith("error: ")
    (page / "videomae").mkdir()
    (page / "videomae" / "config.json").write_text("{}")
    words = ["--metrics=content_fvd", plugin, "--weights", f"videomae={page / 'videomae'}"]
    assert evaluate(page, page / "out", *words, "--num_frames=9") == 2
    assert "content_fvd needs clips of 16 frames, got 9; ask for" in capsys.readouterr().err
    assert not (page / "out").exists()

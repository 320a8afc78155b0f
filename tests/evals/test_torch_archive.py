"""Files of torch read without torch: the same tensors, and nothing is ever run."""

import io
import pickle
import zipfile

import numpy as np
import pytest
from torch_files import write_old, write_zip

from poet.evals import torch_archive

TREE = {
    "conv": {"weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4), "bias": None},
    "turned": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "half": np.array([1.5, -2.0], np.float16),
    "count": np.array(7, np.int64),
}


def assert_is_the_tree(tensors):
    assert list(tensors) == ["conv.weight", "turned", "half", "count"]
    np.testing.assert_array_equal(tensors["conv.weight"], TREE["conv"]["weight"])
    np.testing.assert_array_equal(tensors["half"], TREE["half"])
    np.testing.assert_array_equal(tensors["turned"], [[0, 3], [1, 4], [2, 5]])
    assert tensors["count"] == 7 and tensors["half"].dtype == np.float16


@pytest.mark.parametrize("is_script", [False, True])
def test_both_zips(is_script, tmp_path):
    write_zip(tmp_path / "a.pt", TREE, is_script=is_script)
    assert_is_the_tree(torch_archive.read(tmp_path / "a.pt").tensors)


def test_the_old_layout(tmp_path):
    write_old(tmp_path / "a.pth", TREE)
    assert_is_the_tree(torch_archive.read(tmp_path / "a.pth").tensors)


def test_epsilons_are_read_in_the_text_of_the_code(tmp_path):
    write_zip(tmp_path / "a.pt", TREE, is_script=True, code="  eps : Final[float] = 1.0e-05\n")
    assert torch_archive.read(tmp_path / "a.pt").epsilons == {1e-5}
    write_zip(tmp_path / "b.pt", TREE)
    assert not torch_archive.read(tmp_path / "b.pt").epsilons


@pytest.mark.filterwarnings("ignore")
def test_what_torch_writes(tmp_path):
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Conv3d(3, 4, 1), torch.nn.BatchNorm3d(4, eps=1e-3))
    whole = torch.arange(12.0).reshape(3, 4)
    state = net.state_dict() | {"turned": whole.T, "part": whole[1:, 2:], "b": whole.bfloat16()}
    torch.save(state, tmp_path / "new.pt")
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    torch.jit.save(torch.jit.script(net.eval()), tmp_path / "script.pt")
    for name in ("new", "old"):
        found = torch_archive.read(tmp_path / f"{name}.pt").tensors
        assert list(found) == list(state)
        for key, value in state.items():
            np.testing.assert_array_equal(found[key], value.float().numpy())
    script = torch_archive.read(tmp_path / "script.pt")
    assert list(script.tensors) == list(net.state_dict()) and script.epsilons == {1e-3}
    np.testing.assert_array_equal(script.tensors["0.weight"], net[0].weight.detach().numpy())


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def with_pickle(path, pickled, records=()):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/data.pkl", pickled)
        for name, content in records:
            archive.writestr(name, content)


def test_hostile_files_end_in_a_sentence_and_run_nothing(tmp_path):
    bomb = pickle.dumps(Bomb(tmp_path / "ran"))
    with_pickle(tmp_path / "zip.pt", bomb)
    (tmp_path / "old.pt").write_bytes(bomb)
    # A function that is allowed must not be changed: BUILD would set its attributes.
    changed = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x01\x00\x00\x00aK\x01sb."
    with_pickle(tmp_path / "changed.pt", changed)
    (tmp_path / "text.pt").write_text("no pickle")
    for name in ("zip", "old", "changed", "text"):
        with pytest.raises(ValueError, match="was not run"):
            torch_archive.read(tmp_path / f"{name}.pt")
    assert not (tmp_path / "ran").exists()
    with pytest.raises(ValueError, match="it names .*open"):
        torch_archive.read(tmp_path / "zip.pt")
    with pytest.raises(ValueError, match="found none; check the path"):
        torch_archive.read(tmp_path / "absent.pt")


def test_tensors_stay_inside_their_numbers(tmp_path):
    write_zip(tmp_path / "whole.pt", {"a": np.arange(4, dtype=np.float32)})
    with zipfile.ZipFile(tmp_path / "whole.pt") as archive:
        pickled = archive.read("net/data.pkl")
    with_pickle(tmp_path / "short.pt", pickled, [("net/data/0", b"\0" * 12)])
    with_pickle(tmp_path / "none.pt", pickled)
    # A compressed record may be small on disk and large when read.
    with_pickle(tmp_path / "bomb.pt", pickled, [("net/data/0", b"\0" * 1_000_000)])
    for name, words in (("short", "longer than its"), ("none", "missing"), ("bomb", "missing")):
        with pytest.raises(ValueError, match=words):
            torch_archive.read(tmp_path / f"{name}.pt")
    cut = io.BytesIO((tmp_path / "whole.pt").read_bytes()[:-30]).getvalue()
    (tmp_path / "cut.pt").write_bytes(cut)
    with pytest.raises(ValueError, match="cut off"):
        torch_archive.read(tmp_path / "cut.pt")

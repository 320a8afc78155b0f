"""What two folders hold, and which files belong together."""

import numpy as np
import pytest

from poet.evals import folders
from poet.media import images


def picture(folder, name="0.png"):
    images.write_image(folder / name, np.zeros((16, 16, 3), np.uint8))


def test_pairs_by_name(tmp_path):
    for folder, names in (("real", "cabd"), ("made", "bcde")):
        for name in names:
            picture(tmp_path / folder / name)
    real, made = tmp_path / "real", tmp_path / "made"
    found = folders.pair(real, made)
    assert not found.is_paired and (found.real, found.generated) == (4, 4)
    assert [item.name for item in found.items] == list("abcdbcde")
    found = folders.pair(real, made, only_common=True, num_clips=2)
    assert found.is_paired and [item.name for item in found.items] == ["b", "c"]
    assert all(item.real and item.generated for item in found.items)
    assert folders.pair(None, made).real == 0


def test_manifests_name_files_words_and_splits(tmp_path):
    rows = ["file\tclip_id\tcaption\tsplit\tstart_s", "x.mp4\tt/a\tone\ttrain\t0.5"]
    rows += ["x.mp4\tt/b\ttwo\theld_out\t0"]
    (tmp_path / "manifest.tsv").write_text("\n".join(rows) + "\n")
    found = folders.pair(tmp_path, tmp_path, split="train")
    (item,) = found.items
    assert (item.name, item.caption, item.spec) == ("t_a", "one", None)
    assert (item.generated.path.name, item.generated.start_s) == ("x.mp4", 0.5)
    with pytest.raises(ValueError, match="no clip of split 'test'; its splits are held_out, train"):
        folders.pair(tmp_path, tmp_path, split="test")


def test_words_come_from_either_folder(tmp_path):
    """A file of words beside a clip, or what `poet generate` notes of its request."""
    for folder in ("real", "made"):
        for name in "ab":
            picture(tmp_path / folder, f"{name}.png")
    (tmp_path / "real" / "a.txt").write_text("a red  circle")
    for name in "ab":
        (tmp_path / "made" / f"{name}.json").write_text('{"prompt": "asked for"}')
    found = folders.pair(tmp_path / "real", tmp_path / "made")
    assert [item.caption for item in found.items] == ["a red circle", "asked for"]
    (tmp_path / "made" / "b.json").write_text("[")
    found = folders.pair(None, tmp_path / "made")
    assert [item.caption for item in found.items] == ["asked for", ""]


def test_refusals(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no media files and no manifest.tsv; name"):
        folders.pair(None, tmp_path / "empty")
    with pytest.raises(ValueError, match="There is no manifest or folder .*none; check the name"):
        folders.pair(tmp_path / "none", tmp_path / "empty")
    for folder in "pq":
        picture(tmp_path / folder / f"of_{folder}")
    with pytest.raises(ValueError, match="files of one name in .* are of_p and of_q"):
        folders.pair(tmp_path / "p", tmp_path / "q", only_common=True)
    with pytest.raises(ValueError, match="at least 1 clip, got num_clips=0"):
        folders.pair(tmp_path / "p", tmp_path / "q", num_clips=0)

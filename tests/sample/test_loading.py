import pytest

from poet.sample import loading
from poet.tokens.clip import ClipShape
from poet.tokens.schedule import RASTER, Schedule
from poet.train import checkpoint

SQUARE, PORTRAIT = ClipShape(17, 32, 32), ClipShape(17, 64, 32)
LONG, IMAGE = ClipShape(41, 32, 64), ClipShape(1, 32, 64)


def test_a_size_picks_the_clip_of_that_form():
    clips = [SQUARE, SQUARE, IMAGE, PORTRAIT, LONG]
    assert loading._of_size(clips, "") == SQUARE
    assert loading._of_size(clips, "square") == SQUARE
    assert loading._of_size(clips, "portrait") == PORTRAIT
    assert loading._of_size([PORTRAIT, SQUARE], "") == PORTRAIT
    # Neither a picture nor a longer clip stands for what clips look like.
    says = "makes clips of square .32 x 32 px. and portrait .32 x 64 px.; choose that"
    with pytest.raises(ValueError, match=says):
        loading._of_size(clips, "landscape")


def test_tokens_come_in_the_order_that_was_trained(monkeypatch, tmp_path):
    metas = [{}, {"schedule": {"name": "diagonal", "slope": 0.5}}]
    for meta, order in zip(metas, (RASTER, Schedule("diagonal", 0.5)), strict=True):
        monkeypatch.setattr(checkpoint, "read_meta", lambda folder, meta=meta: meta)
        assert loading.trained_schedule(tmp_path) == order
    monkeypatch.undo()
    assert loading.trained_schedule(tmp_path / "none") == RASTER

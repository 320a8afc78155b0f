"""Scores of untrained tokenizers on a few clips of the shapes world."""

import importlib.util
import json
import pathlib

import jax
import numpy as np
import pytest
from PIL import Image

from poet.main import render
from poet.tokenizers import audio, magvit2, protocol, soundstream, visual
from poet.tokenizers.magvit2 import MagvitConfig
from poet.tokenizers.soundstream import SoundStreamConfig

TOOL = pathlib.Path(__file__).parents[2] / "tools" / "score_tokenizer.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("score_tokenizer", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    argv = ["--num_train=1", "--num_validation=0", "--num_held_out=3", "--size_px=32"]
    assert render.main([f"--out={folder}", *argv]) == 0
    return folder


@pytest.mark.slow
def test_pictures(tool, clips, tmp_path, capsys):
    config = MagvitConfig(
        base_channels=2, multipliers=(1, 1, 1, 1), blocks_per_stage=1, norm_groups=1, num_bits=3
    )
    params = magvit2.init_params(config, jax.random.key(0))
    protocol.save(tmp_path / "visual", visual.KIND, config, params)
    argv = [f"--tokenizer={tmp_path / 'visual'}", f"--media={clips}", "--size_px=16"]
    argv += ["--num_frames=5", f"--picture={tmp_path / 'strips.png'}"]
    assert tool.main(argv) == 0
    scores = json.loads(capsys.readouterr().out)
    # 17 frames of a file are three clips of five.
    assert scores["files"] == 3 and scores["clips"] == 9
    assert 1 <= scores["codes_used"] <= 8
    assert scores["codes_used_share"] == scores["codes_used"] / 8
    assert 0 < scores["psnr_db"] < 20 and abs(scores["ssim_later"]) < 1
    with Image.open(tmp_path / "strips.png") as image:
        assert image.size == (2 * 5 * 16, 2 * 12 * 16)


class Means:
    """Codes are mean brightness, of each place alone or of the whole frame."""

    px_per_token, frames_per_token = 8, 4

    def __init__(self, is_local):
        self.is_local = is_local

    def encode(self, video):
        tiles = (
            video.mean(axis=-1).reshape(len(video), video.shape[1], 4, 8, 4, 8).mean(axis=(3, 5))
        )
        if not self.is_local:
            tiles = np.broadcast_to(tiles.mean(axis=(2, 3), keepdims=True), tiles.shape)
        later = tiles[:, 1:].reshape(len(video), -1, 4, 4, 4).mean(axis=2)
        return np.round(255 * np.concatenate([tiles[:, :1], later], axis=1)).astype(int)


def test_codes_kept_beside_a_hidden_region(tool):
    clips = np.random.default_rng(0).integers(100, 200, (2, 9, 32, 32, 3), dtype=np.uint8)
    local = tool.kept_beside_hidden(Means(is_local=True), clips)
    assert set(local) == set(tool.masking.REGIONS) and set(local.values()) == {1.0}
    # A black quarter of the picture moves its mean by far more than one code.
    whole = tool.kept_beside_hidden(Means(is_local=False), clips)
    assert whole["inpaint_central"] == whole["inpaint_dynamic"] == 0.0
    assert whole["frame_prediction"] == whole["interpolation"] == 1.0


def test_sound(tool, clips, tmp_path, capsys):
    config = SoundStreamConfig(
        base_channels=2, strides=(20, 32), latent_dim=4, num_levels=2, codebook_size=8
    )
    params = {
        "params": soundstream.init_params(config, jax.random.key(0)),
        "centroids": np.random.default_rng(0).normal(size=(2, 8, 4)).astype(np.float32),
    }
    protocol.save(tmp_path / "audio", audio.KIND, config, params)
    argv = [f"--tokenizer={tmp_path / 'audio'}", f"--media={clips}", "--num_files=2"]
    assert tool.main(argv) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["files"] == 2 and len(scores["codes_used"]) == 2
    assert scores["pitch_recovered"] <= 1.0


def test_a_folder_without_tokenizer_is_one_sentence(tool, clips, tmp_path, capsys):
    assert tool.main([f"--tokenizer={tmp_path}", f"--media={clips}"]) == 2
    assert "Expected a trained tokenizer in" in capsys.readouterr().err

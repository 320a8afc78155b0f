"""Tokenizers of others behind the protocol: the page's example, and the published ones."""

import pathlib
import re

import numpy as np
import pytest

from poet.tokenizers import protocol, torch_audio, torch_visual
from tests import tiny_published

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "tokenizers.md"
AUDIO_KINDS = sorted(torch_audio.KINDS)
PUBLISHED = {**torch_audio.KINDS, **torch_visual.KINDS}


@pytest.fixture
def example(tmp_path, monkeypatch):
    """The module of the page, where Python finds it."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "my_tokenizer.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    return "my_tokenizer:Blocks"


def test_the_example_of_the_page_is_adopted_and_loaded(example, tmp_path):
    adopted = protocol.adopt(tmp_path / "visual", example, num_codes=8)
    loaded = protocol.load(tmp_path / "visual")
    assert loaded.num_codes == 8 and loaded.fingerprint == adopted.fingerprint
    video = np.zeros((2, 5, 16, 24, 3), np.float32)
    video[:, 4:] = 1.0
    codes = loaded.encode(video)
    assert codes.shape == (2, 2, 2, 3)
    np.testing.assert_array_equal(codes[0, :, 0, 0], [0, 7])
    restored = loaded.decode(codes)
    assert restored.shape == video.shape and restored.dtype == np.float32
    np.testing.assert_allclose(restored[:, 0], 1 / 16)


def test_other_settings_are_another_tokenizer(example, tmp_path):
    protocol.adopt(tmp_path / "visual", example, num_codes=8)
    path = tmp_path / "visual" / "config.json"
    path.write_text(path.read_text().replace('"num_codes": 8', '"num_codes": 9'))
    with pytest.raises(ValueError, match="was adopted with fingerprint .* adopt it again"):
        protocol.load(tmp_path / "visual")


def test_what_does_not_keep_the_protocol_is_not_adopted(example, tmp_path, monkeypatch):
    import my_tokenizer

    with pytest.raises(ValueError, match=r"from the settings \['colour'\] .* give --set"):
        protocol.adopt(tmp_path / "a", example, colour=1)
    monkeypatch.delattr(my_tokenizer.Blocks, "licence")
    monkeypatch.delattr(my_tokenizer.Blocks, "decode")
    with pytest.raises(ValueError, match="Blocks lacks licence, decode; docs/tokenizers.md says"):
        protocol.adopt(tmp_path / "a", example)
    with pytest.raises(ValueError, match="neither num_codes, .* nor num_levels"):
        protocol.adopt(tmp_path / "a", "collections:OrderedDict")
    assert not (tmp_path / "a").exists()


def test_the_page_says_what_published_tokenizers_say_of_themselves():
    rows = [line.split("|") for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    rows = {row[1].strip(" `"): row for row in rows}
    for kind, facts in PUBLISHED.items():
        assert facts.class_name in rows[kind][2]
        assert rows[kind][5].strip().startswith("yes" if facts.is_causal else "no")


def test_kinds_that_are_not_there(tmp_path):
    for kind in ("nothing", "no.such_module:Name", "json:NoSuchName"):
        with pytest.raises(ValueError, match="There is no tokenizer .* or MODULE:CLASS"):
            protocol.adopt(tmp_path / "a", kind)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("kind", sorted(PUBLISHED))
def test_folders_that_are_no_model_are_refused_before_torch(kind, tmp_path):
    with pytest.raises(ValueError, match="Expected a model folder with config.json"):
        protocol.adopt(tmp_path / "a", kind, folder=str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}'
    )
    model_type = PUBLISHED[kind].model_type
    with pytest.raises(ValueError, match=f"is of model_type 'bert', expected '{model_type}'"):
        protocol.adopt(tmp_path / "a", kind, folder=str(tmp_path))
    (tmp_path / "config.json").write_text(f'{{"model_type": "{model_type}"}}')
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(ValueError, match="pickles .* are not read"):
        protocol.adopt(tmp_path / "a", kind, folder=str(tmp_path))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", AUDIO_KINDS)
def test_published_audio_models_encode_and_decode(kind, tmp_path):
    tiny_published.save(kind, tmp_path / "model")
    protocol.adopt(tmp_path / "audio", kind, folder=str(tmp_path / "model"), num_levels=4)
    tokenizer = protocol.load(tmp_path / "audio")
    hop = {"dac": 320, "encodec": 320, "mimi": 1920}[kind]
    assert (tokenizer.samples_per_frame, tokenizer.codebook_size) == (hop, 64)
    assert tokenizer.sample_rate_hz == (16_000 if kind == "dac" else 24_000)
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, (3, 34_000)).astype(np.float32)
    codes = tokenizer.encode(wave)
    assert codes.shape == (3, 4, 34_000 // hop) and codes.dtype == np.int32
    assert 0 <= codes.min() and codes.max() < 64 and len(np.unique(codes)) > 8
    np.testing.assert_array_equal(tokenizer.encode(wave[1:2]), codes[1:2])
    heard = tokenizer.decode(codes, num_samples=34_000)
    assert heard.shape == wave.shape and heard.dtype == np.float32 and np.abs(heard).max() <= 1
    assert tokenizer.decode(codes).shape == (3, 34_000 // hop * hop)
    with pytest.raises(ValueError, match=r"Expected codes in \[0, 64\)"):
        tokenizer.decode(codes + 64)
    with pytest.raises(ValueError, match="num_levels=99, but .* ask for fewer"):
        protocol.adopt(tmp_path / "b", kind, folder=str(tmp_path / "model"), num_levels=99)


@pytest.mark.filterwarnings("ignore")
def test_emu3_codes_a_clip_group_by_group(tmp_path):
    tiny_published.save("emu3", tmp_path / "model")
    with pytest.raises(ValueError, match="Expected image_mean and image_std .* copy that file too"):
        protocol.adopt(tmp_path / "a", "emu3", folder=str(tmp_path / "model"))
    half = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    protocol.adopt(tmp_path / "visual", "emu3", folder=str(tmp_path / "model"), **half)
    tokenizer = protocol.load(tmp_path / "visual")
    assert (tokenizer.px_per_token, tokenizer.frames_per_token, tokenizer.num_codes) == (8, 4, 64)
    assert tokenizer.is_causal and "Apache" in tokenizer.licence

    # Portrait: the model's own cut to the picture's size would lose rows of it.
    video = np.random.default_rng(0).uniform(size=(2, 9, 48, 16, 3)).astype(np.float32)
    codes = tokenizer.encode(video)
    assert codes.shape == (2, 3, 6, 2) and codes.dtype == np.int32
    assert 0 <= codes.min() and codes.max() < 64 and len(np.unique(codes)) > 8
    np.testing.assert_array_equal(tokenizer.encode(video[:, :1]), codes[:, :1])
    np.testing.assert_array_equal(tokenizer.encode(video[1:, :5]), codes[1:, :2])
    first_group = np.repeat(video[:, 4:5], 5, axis=1)
    np.testing.assert_array_equal(
        tokenizer.encode(first_group)[:, 0], tokenizer.encode(video[:, 4:5])[:, 0]
    )

    seen = tokenizer.decode(codes)
    assert seen.shape == video.shape and seen.dtype == np.float32
    assert seen.min() >= 0 and seen.max() <= 1
    np.testing.assert_allclose(tokenizer.decode(codes[:, :1]), seen[:, :1], atol=1e-5)
    np.testing.assert_allclose(tokenizer.decode(codes[1:, :2]), seen[1:, :5], atol=1e-5)

    path = tmp_path / "model" / "preprocessor_config.json"
    path.write_text('{"image_mean": [0.4, 0.4, 0.4], "image_std": [0.3, 0.3, 0.3]}')
    other = protocol.adopt(tmp_path / "other", "emu3", folder=str(tmp_path / "model"))
    assert other.fingerprint != tokenizer.fingerprint
    path.write_text('{"image_mean": [0.4, 0.4, 0.4], "image_std": [0.3, 0.3, 0.0]}')
    with pytest.raises(ValueError, match="must be above 0"):
        protocol.adopt(tmp_path / "c", "emu3", folder=str(tmp_path / "model"))
    for wrong, words in (
        (video[:, :4], "1 \\+ 4 k frames, got 4; the nearest are 1 and 5"),
        (video[:, :, :-4], "multiples of 8 pixels, got 44 x 16"),
        (255 * video, r"pixels in \[0, 1\]"),
    ):
        with pytest.raises(ValueError, match=words):
            tokenizer.encode(wrong)
    with pytest.raises(ValueError, match=r"Expected codes in \[0, 64\)"):
        tokenizer.decode(codes + 64)
    with pytest.raises(ValueError, match="Give both mean and std"):
        protocol.adopt(tmp_path / "c", "emu3", folder=str(tmp_path / "model"), mean=[0.5] * 3)


@pytest.mark.filterwarnings("ignore")
def test_damaged_and_incomplete_weights_are_refused(tmp_path):
    from safetensors.numpy import load_file, save_file

    tiny_published.save("dac", tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    name = sorted(tensors)[0]
    save_file({key: value for key, value in tensors.items() if key != name}, path)
    with pytest.raises(ValueError, match="lack 1 tensors that config.json asks for, such as"):
        protocol.adopt(tmp_path / "a", "dac", folder=str(tmp_path))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="cannot be loaded as DacModel"):
        protocol.adopt(tmp_path / "a", "dac", folder=str(tmp_path))
    assert not (tmp_path / "a").exists()

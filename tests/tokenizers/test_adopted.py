"""Tokenizers of others behind the protocol: the page's example, and the published ones."""

import pathlib
import re

import numpy as np
import pytest

from poet.tokenizers import protocol, torch_audio

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "tokenizers.md"
KINDS = sorted(torch_audio.KINDS)


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


def test_kinds_that_are_not_there(tmp_path):
    for kind in ("nothing", "no.such_module:Name", "json:NoSuchName"):
        with pytest.raises(ValueError, match="There is no tokenizer .* or MODULE:CLASS"):
            protocol.adopt(tmp_path / "a", kind)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_folders_that_are_no_model_are_refused_before_torch(kind, tmp_path):
    with pytest.raises(ValueError, match="Expected a model folder with config.json"):
        protocol.adopt(tmp_path / "a", kind, folder=str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match=f"is of model_type 'bert', expected '{kind}'"):
        protocol.adopt(tmp_path / "a", kind, folder=str(tmp_path))
    (tmp_path / "config.json").write_text(f'{{"model_type": "{kind}"}}')
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(ValueError, match="pickles .* are not read"):
        protocol.adopt(tmp_path / "a", kind, folder=str(tmp_path))


def save_tiny(kind, folder):
    """A model of few numbers with random codebooks."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    configs = {
        "dac": lambda: transformers.DacConfig(
            encoder_hidden_size=4,
            downsampling_ratios=[2, 4, 5, 8],
            decoder_hidden_size=32,
            n_codebooks=5,
            codebook_size=64,
            codebook_dim=4,
            sampling_rate=16_000,
        ),
        "encodec": lambda: transformers.EncodecConfig(
            num_filters=4,
            hidden_size=16,
            codebook_dim=16,
            num_lstm_layers=1,
            codebook_size=64,
            target_bandwidths=[1.5, 3.0, 6.0],
            upsampling_ratios=[8, 5, 4, 2],
        ),
        "mimi": lambda: transformers.MimiConfig(
            num_filters=4,
            hidden_size=16,
            codebook_size=64,
            codebook_dim=8,
            vector_quantization_hidden_dimension=8,
            num_quantizers=6,
            upsample_groups=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=8,
            intermediate_size=16,
        ),
    }
    model = getattr(transformers, torch_audio.KINDS[kind].class_name)(configs[kind]())
    for name, value in model.named_buffers():
        if name.endswith(("codebook.embed", "codebook.embed_sum")):
            value.copy_(0.01 * torch.randn_like(value))  # As small as untrained latents.
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.startswith("encoder") and name.endswith("weight.original0"):
                value.mul_(4.0)  # Else an untrained EnCodec gives the same latent for everything.
    model.save_pretrained(folder)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_published_models_encode_and_decode(kind, tmp_path):
    save_tiny(kind, tmp_path / "model")
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
def test_damaged_and_incomplete_weights_are_refused(tmp_path):
    from safetensors.numpy import load_file, save_file

    save_tiny("dac", tmp_path)
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

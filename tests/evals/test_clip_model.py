"""CLIP: the numbers and ids of `transformers` on tiny models, pictures as PIL makes them.

tests/golden/clip_outputs.json was made with transformers 5.24 and torch 2.14 by
`POET_WRITE_GOLDEN=1 pytest tests/evals/test_clip_model.py` where both are installed.
"""

import json
import os
import pathlib

import numpy as np
import pytest
import tiny_clip
from PIL import Image

from poet.evals import clip_folder, clip_model, clip_scorer, clip_text, embedding_scores

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "clip_outputs.json"
KINDS = {"quick_gelu_8": ("quick_gelu", 8), "gelu_4": ("gelu", 4)}


def outputs(folder):
    scorer, _ = clip_scorer.load(folder)
    frames = scorer.frame_features(tiny_clip.pictures())
    return frames.reshape(4, -1), scorer.caption_features(tiny_clip.CAPTIONS)


def transformers_tokens(folder):
    transformers = pytest.importorskip("transformers")
    files = [str(folder / name) for name in ("vocab.json", "merges.txt")]
    ids = json.loads((folder / "vocab.json").read_text())
    merges = [tuple(pair) for pair in tiny_clip.MERGES]
    try:
        tokenizer = transformers.CLIPTokenizer(*files)
    except TypeError:  # transformers 5 takes what the files hold.
        tokenizer = transformers.CLIPTokenizer(vocab=ids, merges=merges)
    return [
        tokenizer(caption, truncation=True, max_length=tiny_clip.NUM_PLACES)["input_ids"]
        for caption in tiny_clip.CAPTIONS
    ]


def transformers_outputs(folder):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = json.loads((folder / "config.json").read_text())
    model = transformers.CLIPModel(transformers.CLIPConfig(**config)).eval()
    state = {name: torch.tensor(value) for name, value in tiny_clip.tensors_of(config).items()}
    found = model.load_state_dict(state, strict=False)
    assert not found.unexpected_keys
    assert all("logit_scale" in key or "position_ids" in key for key in found.missing_keys)
    pixels = clip_scorer.PictureRule(size_px=16).prepared(
        tiny_clip.pictures().reshape(4, 20, 28, 3)
    )
    rows = transformers_tokens(folder)
    end = rows[0][-1]
    ids = torch.tensor([row + [end] * (tiny_clip.NUM_PLACES - len(row)) for row in rows])
    with torch.no_grad():
        image = model.vision_model(torch.tensor(pixels).permute(0, 3, 1, 2)).pooler_output
        text = model.text_model(ids).pooler_output
        return model.visual_projection(image).numpy(), model.text_projection(text).numpy()


def assert_close(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        theirs = np.array(theirs)
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() <= 1e-5 * max(1.0, np.abs(theirs).max())


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_are_those_written_down(kind, tmp_path):
    folder = tiny_clip.write(tmp_path, *KINDS[kind])
    if os.environ.get("POET_WRITE_GOLDEN"):
        golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
        golden[kind] = [np.round(each, 7).tolist() for each in transformers_outputs(folder)]
        golden["ids"] = transformers_tokens(folder)
        GOLDEN.write_text(json.dumps(golden) + "\n")
    assert_close(outputs(folder), json.loads(GOLDEN.read_text())[kind])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_are_those_of_transformers(kind, tmp_path):
    folder = tiny_clip.write(tmp_path, *KINDS[kind])
    assert_close(outputs(folder), transformers_outputs(folder))


def ids_without_filling(folder):
    rows, ends = clip_text.read_tokenizer(folder, tiny_clip.NUM_PLACES)(tiny_clip.CAPTIONS)
    return [row[: end + 1].tolist() for row, end in zip(rows, ends, strict=True)]


def test_ids_are_those_written_down(tmp_path):
    assert ids_without_filling(tiny_clip.write(tmp_path)) == json.loads(GOLDEN.read_text())["ids"]


@pytest.mark.filterwarnings("ignore")
def test_ids_are_those_of_transformers(tmp_path):
    folder = tiny_clip.write(tmp_path)
    assert ids_without_filling(folder) == transformers_tokens(folder)


def test_words_and_pieces_by_hand():
    assert clip_text.words_of(" It's 20 €!!\tWE'LL") == ["it", "'s", "2", "0", "€!!", "we", "'ll"]
    assert clip_text.words_of("n° x² e\u0301") == ["n", "°", "x", "²", "é"]
    ids = tiny_clip.vocabulary()
    tokenizer = clip_text.ClipTokenizer(ids, [" ".join(pair) for pair in tiny_clip.MERGES])
    # "the" is one piece; "ph o t o" joins to pho, to.
    assert tokenizer.ids_of("The photo") == [ids["the</w>"], ids["pho"], ids["to</w>"]]
    rows, ends = tokenizer(["dog"])
    assert rows.shape == (1, 77) and ends.tolist() == [2]
    assert rows[0, :4].tolist() == [ids[clip_text.BEGIN], ids["dog</w>"], ids[clip_text.END], 0]


def test_long_captions_keep_their_end():
    ids = tiny_clip.vocabulary()
    rows, ends = clip_text.ClipTokenizer(ids, [], num_places=5)(["a b c d e f"])
    assert ends.tolist() == [4] and rows[0, -1] == ids[clip_text.END]
    assert rows[0, 1:4].tolist() == [ids[f"{letter}</w>"] for letter in "abc"]


def test_damaged_vocabularies_are_refused(tmp_path):
    ids = tiny_clip.vocabulary()
    with pytest.raises(ValueError, match=r"vocab.json has no <\|endoftext\|>"):
        clip_text.ClipTokenizer({clip_text.BEGIN: 0}, [])
    with pytest.raises(ValueError, match="merges.txt has a line that is no pair"):
        clip_text.ClipTokenizer(ids, ["a b c"])
    with pytest.raises(ValueError, match="num_places=1"):
        clip_text.ClipTokenizer(ids, [], num_places=1)
    with pytest.raises(ValueError, match="has no piece 'the</w>' of the word 'the'"):
        small = {name: value for name, value in ids.items() if name != "the</w>"}
        clip_text.ClipTokenizer(small, ["t h", "th e</w>"]).ids_of("the")
    with pytest.raises(ValueError, match="Expected vocab.json in"):
        clip_text.read_tokenizer(tmp_path)
    with pytest.raises(ValueError, match="vocab.json is no JSON"):
        clip_text.tokenizer_of("{", "", num_places=77)
    with pytest.raises(ValueError, match="is no table of ids"):
        clip_text.tokenizer_of("[1]", "", num_places=77)


@pytest.mark.parametrize("size", [(40, 57), (300, 240), (224, 224)])
def test_pictures_are_those_of_pil(size):
    rule = clip_scorer.PictureRule()
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    short = min(size)
    width, height = (224 * length // short for length in size[::-1])
    resized = Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - 224) / 2), round((height - 224) / 2)
    cut = np.asarray(resized.crop((left, top, left + 224, top + 224)), np.float32) / 255
    expected = (cut - np.array(rule.mean, np.float32)) / np.array(rule.deviation, np.float32)
    difference = np.abs(rule.prepared(picture[None])[0] - expected) * 255 * 0.27
    # Sums that end at a half may be rounded either way.
    assert difference.max() < 2.5 and np.mean(difference > 0.5) < 1e-3


def test_published_sizes():
    """With the one number that scales logits, 149,620,737 and 151,277,313."""
    for patch_px, num_numbers in ((16, 149_620_736), (32, 151_277_312)):
        network = clip_folder.network_of(clip_model.vit_b(patch_px))
        assert network.count(network.shapes()) == num_numbers
    # What a config leaves out is B/32.
    assert clip_folder.config_of({"model_type": "clip"}) == clip_model.vit_b(32)


def test_a_score_from_a_folder(tmp_path):
    scorer, facts = clip_scorer.load(tiny_clip.write(tmp_path / "clip"))
    assert facts["weights"] == "clip/model.safetensors" and len(facts["weights_sha256"]) == 64
    assert facts["weights_note"].startswith("UNVERIFIED WEIGHTS")
    captions = scorer.caption_features(["a dog", "the photo"])
    frames = scorer.frame_features(tiny_clip.pictures())
    assert frames.shape == (2, 2, 6) and captions.shape == (2, 6)
    assert np.abs(embedding_scores.text_similarity(frames, captions)).max() <= 1
    assert scorer.caption_features([]).shape == (0, 6)


def test_what_does_not_fit_is_refused(tmp_path):
    folder = tiny_clip.write(tmp_path / "clip")
    with pytest.raises(ValueError, match="model_type 'bert'; expected 'clip'"):
        clip_folder.config_of({"model_type": "bert"})
    with pytest.raises(ValueError, match="asks for another preparation"):
        clip_scorer.rule_of({"resample": 2})
    with pytest.raises(ValueError, match="asks for another preparation"):
        clip_scorer.rule_of({"size": {"height": 224, "width": 224}})
    assert clip_scorer.rule_of({"size": 336, "crop_size": 336}).size_px == 336
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match="makes pictures of 224 pixels, but the model sees 16"):
        clip_scorer.load(folder)
    with pytest.raises(ValueError, match="has no config.json.*openai/clip-vit-base-patch16"):
        clip_scorer.load(tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="has no model.safetensors.*Hugging Face"):
        clip_scorer.load(folder)
    with pytest.raises(ValueError, match="activation='relu' must be one of quick_gelu, gelu"):
        clip_folder.config_of(tiny_clip.config_of("relu"))

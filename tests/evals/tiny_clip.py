"""A tiny CLIP as Hugging Face lays it out: config, tensors by formula, a small vocabulary."""

import json

import numpy as np
from safetensors.numpy import save_file

from poet.evals import clip_folder, clip_text

CAPTIONS = (
    "a photo of a dog",
    "  It's   2024: WE'RE at the café!! ",
    "naïve 北京 x²",
    "the the the the the the the the the the the the the the the",
    "",
)
MERGES = (
    ("t", "h"),
    ("th", "e</w>"),
    ("o", "g</w>"),
    ("d", "og</w>"),
    ("p", "h"),
    ("ph", "o"),
    ("o", "t"),
    ("'", "s</w>"),
    ("a", "t</w>"),
    ("t", "o</w>"),
    ("!", "!</w>"),
)
NUM_PLACES = 16


def vocabulary():
    """All bytes, all bytes as ends, the merges, begin and end."""
    signs = clip_text._byte_signs()
    pieces = [*sorted(signs), *(f"{sign}</w>" for sign in sorted(signs))]
    pieces += ["".join(pair) for pair in MERGES] + [clip_text.BEGIN, clip_text.END]
    return {piece: index for index, piece in enumerate(pieces)}


def config_of(activation="quick_gelu", patch_px=8):
    """A config.json."""
    tower = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_act": activation}
    ids = vocabulary()
    return {
        "model_type": "clip",
        "projection_dim": 6,
        "text_config": tower
        | {
            "hidden_size": 8,
            "intermediate_size": 12,
            "vocab_size": len(ids),
            "max_position_embeddings": NUM_PLACES,
            "bos_token_id": ids[clip_text.BEGIN],
            "eos_token_id": ids[clip_text.END],
            "pad_token_id": ids[clip_text.END],
        },
        "vision_config": tower
        | {"hidden_size": 12, "intermediate_size": 16, "image_size": 16, "patch_size": patch_px},
    }


def tensors_of(config):
    """State dict: sines of the place, so that no generator of random numbers is involved."""
    sizes = clip_folder.config_of(config)
    shapes = clip_folder.network_of(sizes).shapes()
    found = {}
    for number, (ours, theirs) in enumerate(clip_folder._names(sizes)):
        shape = shapes[ours]
        if ours.endswith("/kernel"):
            shape = (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape[::-1]
        waves = np.sin(1.37 * np.arange(np.prod(shape)) ** 1.1 + number)
        is_scale = ours.endswith("/scale")
        found[theirs] = (0.2 * waves + is_scale).reshape(shape).astype(np.float32)
    return found


def pictures():
    """Two clips of two frames, 20 x 28, by formula."""
    place = np.arange(2 * 2 * 20 * 28 * 3)
    waves = 127.5 * (1 + np.sin(0.05 * place + 0.3 * np.sin(0.011 * place)))
    return waves.astype(np.uint8).reshape(2, 2, 20, 28, 3)


def write(folder, activation="quick_gelu", patch_px=8):
    """The folder of a model."""
    folder.mkdir(parents=True, exist_ok=True)
    config = config_of(activation, patch_px)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "vocab.json").write_text(json.dumps(vocabulary()))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in MERGES)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    rule = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}, "resample": 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(rule))
    save_file(tensors_of(config), folder / "model.safetensors")
    return folder

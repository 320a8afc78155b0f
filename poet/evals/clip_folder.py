"""A CLIP's folder as Hugging Face lays it out: config, tensors and the texts beside them.

The folder holds config.json, model.safetensors, vocab.json, merges.txt and, where pictures are not
prepared as OpenAI does, preprocessor_config.json. Names were checked against `transformers`.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from poet.evals import metric_weights
from poet.evals.clip_model import Clip, ClipConfig, TowerConfig
from poet.evals.metric_weights import Network
from poet.tokenizers import weight_files

CONFIG, WEIGHTS, PICTURES = "config.json", "model.safetensors", "preprocessor_config.json"
# What a config of transformers leaves out is as in CLIP ViT-B/32.
_COMMON = {"num_hidden_layers": 12, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
_IMAGE = _COMMON | {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
}
_TEXT = _COMMON | {
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_attention_heads": 8,
    "vocab_size": 49_408,
    "max_position_embeddings": 77,
}


def network_of(config: ClipConfig) -> Network:
    """The network of a config, as the loader of weights wants it."""
    pictures = (1, config.size_px, config.size_px, 3)
    inputs = (
        jax.ShapeDtypeStruct(pictures, jnp.float32),
        jax.ShapeDtypeStruct((1, config.num_places), jnp.int32),
        jax.ShapeDtypeStruct((1,), jnp.int32),
    )
    return Network(module=Clip(config), inputs=inputs)


def read_folder(folder: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(our tensors, facts with the texts of the other files) of a folder.

    Raises:
      ValueError: A file is missing or damaged, or a tensor is missing.
    """
    folder = Path(folder)
    texts = {}
    names = {"config": CONFIG, "vocabulary": "vocab.json", "merges": "merges.txt"}
    for key, name in names.items():
        if not (folder / name).is_file():
            raise ValueError(
                f"{folder} has no {name}. " + metric_weights.what_to_get("clip", folder)
            )
        texts[key] = (folder / name).read_text(encoding="utf-8")
    is_there = (folder / PICTURES).is_file()
    texts["pictures"] = (folder / PICTURES).read_text(encoding="utf-8") if is_there else "{}"
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise ValueError(
            f"{folder} has no {WEIGHTS}. " + metric_weights.what_to_get("clip", folder)
        )
    config = config_of(parsed(texts["config"], CONFIG))
    tensors, key_map = import_clip(weight_files.read(weights), config)
    facts = {
        "kind": "clip",
        "source": f"{folder.name}/{WEIGHTS}",
        "source_sha256": metric_weights.sha256_of(weights),
        "key_map": key_map,
        **texts,
    }
    return tensors, facts


def config_of(facts: Mapping[str, Any]) -> ClipConfig:
    """Sizes from a config.json of transformers.

    Raises:
      ValueError: It is of another kind of model, or has sizes that do not fit each other.
    """
    if facts.get("model_type") != "clip":
        raise ValueError(f"{CONFIG} is of model_type {facts.get('model_type')!r}; expected 'clip'.")
    # The older "..._dict" wins where it is there, as in transformers.
    image, text = (
        default | (facts.get(f"{name}_config") or {}) | (facts.get(f"{name}_config_dict") or {})
        for name, default in (("vision", _IMAGE), ("text", _TEXT))
    )
    return ClipConfig(
        image=_tower(image),
        text=_tower(text),
        size_px=image["image_size"],
        patch_px=image["patch_size"],
        num_ids=text["vocab_size"],
        num_places=text["max_position_embeddings"],
        num_features=facts.get("projection_dim", 512),
    )


def import_clip(
    found: Mapping[str, np.ndarray], config: ClipConfig
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """(our tensors, our name -> theirs) from a state dict of transformers' CLIPModel.

    Raises:
      ValueError: A tensor is missing.
    """
    tensors, key_map = {}, {}
    for ours, theirs in _names(config):
        if theirs not in found:
            raise ValueError(f"{WEIGHTS} has no tensor {theirs}; give the files of one CLIP.")
        value = found[theirs]
        if ours.endswith("/kernel"):  # Theirs have outputs first.
            value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
        tensors[ours] = np.ascontiguousarray(value, np.float32)
        key_map[ours] = theirs
    return tensors, key_map


def _names(config: ClipConfig) -> Iterator[tuple[str, str]]:
    vision, text = "vision_model", "text_model"
    yield "image/patch/kernel", f"{vision}.embeddings.patch_embedding.weight"
    yield "image/first", f"{vision}.embeddings.class_embedding"
    yield "image/places", f"{vision}.embeddings.position_embedding.weight"
    yield from _norm_names("image/first_norm", f"{vision}.pre_layrnorm")  # Their spelling.
    yield from _norm_names("image/last_norm", f"{vision}.post_layernorm")
    yield "image/project/kernel", "visual_projection.weight"
    yield "text/tokens", f"{text}.embeddings.token_embedding.weight"
    yield "text/places", f"{text}.embeddings.position_embedding.weight"
    yield from _norm_names("text/last_norm", f"{text}.final_layer_norm")
    yield "text/project/kernel", "text_projection.weight"
    for ours, theirs, tower in (("image", vision, config.image), ("text", text, config.text)):
        for index in range(tower.num_layers):
            yield from _block_names(f"{ours}/block_{index}", f"{theirs}.encoder.layers.{index}")


def _block_names(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    yield from _norm_names(f"{ours}/attention_norm", f"{theirs}.layer_norm1")
    yield from _norm_names(f"{ours}/mlp_norm", f"{theirs}.layer_norm2")
    denses = {"up": "mlp.fc1", "down": "mlp.fc2"}
    for name, short in (("query", "q"), ("key", "k"), ("value", "v"), ("out", "out")):
        denses[name] = f"self_attn.{short}_proj"
    for name, source in denses.items():
        yield f"{ours}/{name}/kernel", f"{theirs}.{source}.weight"
        yield f"{ours}/{name}/bias", f"{theirs}.{source}.bias"


def _norm_names(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    yield f"{ours}/scale", f"{theirs}.weight"
    yield f"{ours}/bias", f"{theirs}.bias"


def _tower(facts: Mapping[str, Any]) -> TowerConfig:
    return TowerConfig(
        width=facts["hidden_size"],
        num_layers=facts["num_hidden_layers"],
        num_heads=facts["num_attention_heads"],
        mlp_dim=facts["intermediate_size"],
        activation=facts["hidden_act"],
        epsilon=facts["layer_norm_eps"],
    )


def parsed(text: str, name: str) -> dict[str, Any]:
    """The JSON object of a text.

    Args:
      text: Of a file.
      name: The file's, for errors.

    Raises:
      ValueError: The text is no JSON, or no object.
    """
    try:
        facts = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{name} is no JSON ({error}); copy it again.") from error
    if not isinstance(facts, dict):
        raise ValueError(f"{name} holds no JSON object; copy it again.")
    return facts

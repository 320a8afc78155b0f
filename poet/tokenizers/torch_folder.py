"""Folders of published models, as Hugging Face lays them out, for the extra `torch`.

A folder holds `config.json` and `model.safetensors`; nothing is fetched and no pickle is read.
"""

import dataclasses
import functools
import hashlib
import json
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class Published:
    """What is known of a kind of published tokenizer.

    Attributes:
      class_name: In `transformers`.
      model_type: In config.json.
      is_causal: Whether codes never depend on what comes later.
      licence: A note; read the model card of the weights that you use.
    """

    class_name: str
    model_type: str
    is_causal: bool
    licence: str


def fingerprint(folder: Path, published: Published, described: str) -> str:
    """Hex digest of the description, config.json and every byte of the weights.

    Args:
      folder: Of the weights.
      published: What must be in it.
      described: Everything else that decides codes: kind, version of the adapter, settings.

    Raises:
      ValueError: The folder does not hold such a model as safetensors.
    """
    facts = read_json(folder, "config.json")
    if facts.get("model_type") != published.model_type:
        raise ValueError(
            f"{folder} is of model_type {facts.get('model_type')!r}, expected"
            f" {published.model_type!r} for a {published.class_name}."
        )
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise ValueError(
            f"Expected model.safetensors in {folder}, found none; pickles (.bin) are not read:"
            " get the safetensors file."
        )
    digest = hashlib.sha256(described.encode())
    digest.update(json.dumps(facts, sort_keys=True).encode())
    with weights.open("rb") as file:
        for block in iter(functools.partial(file.read, 2**20), b""):
            digest.update(block)
    return digest.hexdigest()


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """The object in a JSON file of the folder.

    Raises:
      ValueError: There is no such file, or it holds something else.
    """
    try:
        facts = json.loads((folder / name).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(
            f"Expected a model folder with {name} at {folder} ({error}); give the folder that"
            " holds config.json and model.safetensors."
        ) from error
    return facts if isinstance(facts, dict) else {}


def load(folder: Path, published: Published) -> Any:
    """The model of a folder, every weight of it from the file, ready to run.

    Raises:
      ValueError: torch is not there, the file is damaged, or it lacks weights.
    """
    try:
        import transformers
        from safetensors import safe_open
    except ImportError as error:
        raise ValueError(
            f"The {published.class_name} of {folder} needs torch and transformers;"
            " `make setup EXTRAS=torch`."
        ) from error
    known = getattr(transformers, published.class_name)
    try:
        with safe_open(folder / "model.safetensors", framework="numpy") as file:
            file.keys()
        model, report = known.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:  # Both libraries raise many types for files that are not theirs.
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"The weights in {folder} cannot be loaded as {published.class_name}"
            f" ({first_line[:120]}); copy the folder again."
        ) from error
    wrong = [*report["missing_keys"], *report["mismatched_keys"]]
    if wrong:
        # transformers would go on with random numbers in their place.
        raise ValueError(
            f"The weights in {folder} lack {len(wrong)} tensors that config.json asks for, such as"
            f" {sorted(map(str, wrong))[0]}; give weights and config of the same model."
        )
    return model.eval()

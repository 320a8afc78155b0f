"""What every tokenizer promises, and how a trained one is kept on disk.

A tokenizer directory holds `config.json` (kind, sizes, fingerprint) and `weights.npz`; that of an
adopted one (see `adopt`) holds `config.json` alone, which says where the weights lie. The
fingerprint is a hash of both and of the code's version; it travels with token datasets and
checkpoints, so that codes of one tokenizer are never read with another.

Axes: B batch, T frames, Y rows, X columns, S samples, Q audio levels, L audio frames; t, h, w the
grid of visual codes.
"""

import dataclasses
import hashlib
import importlib
import io
import json
import uuid
from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np
from etils import epath

from poet.tokenizers import audio, torch_audio, torch_visual, visual
from poet.tokenizers.magvit2 import MagvitConfig
from poet.tokenizers.soundstream import SoundStreamConfig
from poet.typing import Float, Int

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "weights.npz"

# kind -> (tokenizer, its config, version of the code that turns weights into codes)
_KINDS = {
    visual.KIND: (visual.VisualTokenizer, MagvitConfig, visual.CODE_VERSION),
    audio.KIND: (audio.AudioTokenizer, SoundStreamConfig, audio.CODE_VERSION),
}


# kind of a published tokenizer -> (tokenizer, its config)
_PUBLISHED = {
    **dict.fromkeys(
        torch_visual.KINDS, (torch_visual.TorchVisualTokenizer, torch_visual.TorchVisualConfig)
    ),
    **dict.fromkeys(
        torch_audio.KINDS, (torch_audio.TorchAudioTokenizer, torch_audio.TorchAudioConfig)
    ),
}

_VISUAL_FACTS = (
    "num_codes", "px_per_token", "frames_per_token", "is_causal", "licence", "fingerprint",
)  # fmt: skip
_AUDIO_FACTS = (
    "num_levels", "codebook_size", "samples_per_frame", "sample_rate_hz", "is_causal", "licence",
    "fingerprint",
)  # fmt: skip

# What makes a tokenizer of a kind from the settings in its config.json.
Maker = Callable[..., Any]


class VisualTokenizer(Protocol):
    """Clips in [0, 1] to a grid of codes and back.

    Attributes:
      px_per_token: Side of the square of pixels of one code.
      frames_per_token: Frames of a latent frame after the first, which is one frame alone.
      is_causal: Whether later frames change no earlier code. Without it an image is no first
        frame, and frame prediction and extension are given what they should not see.
      licence: A note on the weights.
    """

    px_per_token: int
    frames_per_token: int
    is_causal: bool
    licence: str

    @property
    def num_codes(self) -> int: ...

    @property
    def fingerprint(self) -> str: ...

    def encode(self, video: Float[np.ndarray, "B T Y X 3"]) -> Int[np.ndarray, "B t h w"]: ...

    def decode(self, codes: Int[np.ndarray, "B t h w"]) -> Float[np.ndarray, "B T Y X 3"]: ...


class AudioTokenizer(Protocol):
    """Sound in [-1, 1] to levels of codes and back.

    Attributes:
      is_causal: Whether later sound changes no earlier code.
      licence: A note on the weights.
    """

    is_causal: bool
    licence: str

    @property
    def num_levels(self) -> int: ...

    @property
    def codebook_size(self) -> int: ...

    @property
    def samples_per_frame(self) -> int: ...

    @property
    def sample_rate_hz(self) -> int: ...

    @property
    def fingerprint(self) -> str: ...

    def encode(self, wave: Float[np.ndarray, "B S"]) -> Int[np.ndarray, "B Q L"]: ...

    def decode(
        self, codes: Int[np.ndarray, "B Q L"], num_samples: int | None = None
    ) -> Float[np.ndarray, "B S"]: ...


class TextTokenizer(Protocol):
    """A prompt to a fixed number of ids, the rest padding."""

    @property
    def num_slots(self) -> int: ...

    @property
    def num_ids(self) -> int: ...

    def encode(self, text: str) -> Int[np.ndarray, "S"]: ...


def fingerprint(kind: str, config: Any, params: Any) -> str:
    """Hex digest of the kind, its code version, the config's values and every weight."""
    digest = hashlib.sha256(json.dumps(_described(kind, config), sort_keys=True).encode())
    for name, weight in sorted(_flatten(params).items()):
        digest.update(f"{name} {weight.dtype} {weight.shape}".encode())
        digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()


def save(directory: epath.PathLike, kind: str, config: Any, params: Any) -> str:
    """Writes a tokenizer and returns its fingerprint.

    `config.json` is written last and replaces an old one only then: a directory that has it is
    complete. Other files of the directory stay.

    Args:
      kind: `visual.KIND` or `audio.KIND`.
      config: Dataclass of that kind.
      params: Nested dict of arrays, as that kind's tokenizer takes them.
    """
    directory = epath.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    facts = _described(kind, config) | {"fingerprint": fingerprint(kind, config, params)}
    weights = io.BytesIO()
    np.savez(weights, **_flatten(params))
    (directory / CONFIG_NAME).unlink(missing_ok=True)
    _replace(directory / WEIGHTS_NAME, weights.getvalue())
    _replace(directory / CONFIG_NAME, (json.dumps(facts, indent=2) + "\n").encode())
    return facts["fingerprint"]


def load(directory: epath.PathLike) -> Any:
    """The tokenizer of a directory, ready to encode and decode.

    Raises:
      ValueError: Nothing complete is there, another version wrote it, or weights and config do not
        belong together.
    """
    facts = read_config(directory)
    if facts["kind"] not in _KINDS:
        return _adopted(directory, facts)
    make, config_class, version = _KINDS[facts["kind"]]
    if facts["code_version"] != version:
        raise ValueError(
            f"The tokenizer in {directory} was saved by version {facts['code_version']} of its"
            f" code, this is version {version}; train it again or use the older Poet."
        )
    config = config_class(**_lists_to_tuples(facts["config"]))
    with np.load(io.BytesIO((epath.Path(directory) / WEIGHTS_NAME).read_bytes())) as weights:
        params = _unflatten({name: weights[name] for name in weights.files})
    found = fingerprint(facts["kind"], config, params)
    if found != facts["fingerprint"]:
        raise ValueError(
            f"The tokenizer in {directory} should have fingerprint {facts['fingerprint'][:12]} but"
            f" its files give {found[:12]}; they were changed or mixed: copy or train it again."
        )
    return make(config, params, found)


def adopt(directory: epath.PathLike, kind: str, **settings: Any) -> Any:
    """Makes a directory that stands for somebody else's tokenizer, and returns that tokenizer.

    Args:
      directory: Gets `config.json`; the weights stay where they are.
      kind: "emu3" (see `torch_visual`), "dac", "encodec" or "mimi" (see `torch_audio`), or
        "module:Class" for a class of the user's own, which meets one of the protocols above.
      settings: What the class is made from, plain numbers, strings and lists; for the published
        kinds the fields of `TorchVisualConfig` and `TorchAudioConfig`.

    Raises:
      ValueError: There is no such kind, it cannot be made from these settings, or it does not keep
        the protocol.
    """
    tokenizer = _make(kind, settings)
    describe(tokenizer)
    facts = {"kind": kind, "config": settings, "fingerprint": tokenizer.fingerprint}
    directory = epath.Path(directory)
    if (directory / WEIGHTS_NAME).exists():
        raise ValueError(f"{directory} holds a trained tokenizer; give another folder.")
    directory.mkdir(parents=True, exist_ok=True)
    _replace(directory / CONFIG_NAME, (json.dumps(facts, indent=2) + "\n").encode())
    return tokenizer


def describe(tokenizer: Any) -> dict[str, Any]:
    """What a tokenizer states about itself: its geometry, whether it is causal, licence, print.

    Raises:
      ValueError: It states less than the protocol asks for.
    """
    kinds = {"num_codes": _VISUAL_FACTS, "num_levels": _AUDIO_FACTS}
    names = next((names for key, names in kinds.items() if hasattr(tokenizer, key)), None)
    name = type(tokenizer).__name__
    if names is None:
        raise ValueError(
            f"{name} states neither num_codes, as a visual tokenizer does, nor num_levels, as an"
            " audio tokenizer does; see docs/tokenizers.md."
        )
    missing = [fact for fact in (*names, "encode", "decode") if not hasattr(tokenizer, fact)]
    if missing:
        raise ValueError(
            f"{name} lacks {', '.join(missing)}; docs/tokenizers.md says what each of them is."
        )
    return {fact: getattr(tokenizer, fact) for fact in names}


def _adopted(directory: epath.PathLike, facts: dict[str, Any]) -> Any:
    tokenizer = _make(facts["kind"], facts["config"])
    if tokenizer.fingerprint != facts["fingerprint"]:
        raise ValueError(
            f"The tokenizer in {directory} was adopted with fingerprint"
            f" {facts['fingerprint'][:12]}, its weights now give {tokenizer.fingerprint[:12]}; put"
            " the old weights back, or adopt it again into another folder."
        )
    return tokenizer


def _make(kind: str, settings: dict[str, Any]) -> Any:
    try:
        return _maker(kind)(**settings)
    except TypeError as error:
        raise ValueError(
            f"The tokenizer {kind} cannot be made from the settings {sorted(settings)} ({error});"
            " give --set NAME=VALUE for what its class takes."
        ) from error


def _maker(kind: str) -> Maker:
    if kind in _PUBLISHED:
        tokenizer, config = _PUBLISHED[kind]
        return lambda **settings: tokenizer(kind, config(**settings))
    module, _, name = kind.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"There is no tokenizer {kind!r} ({error}); expected one of"
            f" {', '.join(_PUBLISHED)} or MODULE:CLASS that Python can import."
        ) from error


def read_config(directory: epath.PathLike) -> dict[str, Any]:
    """The facts of `config.json`: kind, code_version, config, fingerprint."""
    path = epath.Path(directory) / CONFIG_NAME
    if not path.exists():
        raise ValueError(
            f"Expected a trained tokenizer in {directory}, found no {CONFIG_NAME}; make one with"
            " `poet train-tokenizer` or run `make demo`."
        )
    facts = json.loads(path.read_text())
    kind = str(facts.get("kind"))
    if kind not in _KINDS and kind not in _PUBLISHED and ":" not in kind:
        raise ValueError(
            f"The tokenizer in {directory} is of kind {facts.get('kind')!r}; this version knows"
            f" {', '.join(sorted([*_KINDS, *_PUBLISHED]))} and MODULE:CLASS."
        )
    return facts


def _described(kind, config):
    return {
        "kind": kind,
        "code_version": _KINDS[kind][2],
        "config": dataclasses.asdict(config),
    }


def _flatten(params):
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {"/".join(str(part.key) for part in path): np.asarray(leaf) for path, leaf in leaves}


def _unflatten(weights):
    params: dict[str, Any] = {}
    for name, weight in weights.items():
        *folders, last = name.split("/")
        place = params
        for folder in folders:
            place = place.setdefault(folder, {})
        place[last] = weight
    return params


def _lists_to_tuples(config):
    """JSON has no tuples; every sequence of a config is one."""
    return {name: tuple(v) if isinstance(v, list) else v for name, v in config.items()}


def _replace(path, content):
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}"
    temporary.write_bytes(content)
    temporary.replace(path)

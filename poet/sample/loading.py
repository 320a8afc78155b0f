"""Loads a trained model with its tokenizers, checked against each other."""

from pathlib import Path

from etils import epath

from poet.main import commands


def load_engine(checkpoint_dir: str, tokenizers_dir: str, decoding=None):
    """A `poet.sample.engine.Engine` from MODEL_DIR and a folder with visual/ and audio/.

    Args:
      checkpoint_dir: What `poet train` wrote.
      tokenizers_dir: What its dataset was prepared with.
      decoding: A `poet.sample.decode.Decoding`.

    Raises:
      UserError: A folder is missing, naming the command that makes it; the tokenizers are not
        those that the model was trained with, naming both fingerprints.
    """
    from poet.sample import engine
    from poet.tokens.clip import ClipShape, SoundShape
    from poet.tokens.tasks import Task
    from poet.train import checkpoint, lm
    from poet.train.meta import from_json

    visual, audio = load_tokenizers(tokenizers_dir)
    if not Path(checkpoint_dir).exists():
        raise commands.UserError(
            f"Expected a trained model in {checkpoint_dir}, found nothing there; make one with"
            " `poet train --gin_file=gin/runs/demo.gin`, run `make demo`, or pass --checkpoint."
        )
    meta = checkpoint.read_meta(checkpoint_dir)
    for kind, tokenizer in (("visual", visual), ("audio", audio)):
        trained = meta["tokenizers"].get(kind)
        if trained is not None and trained != tokenizer.fingerprint:
            raise commands.UserError(
                f"The model in {checkpoint_dir} was trained on ids of the {kind} tokenizer"
                f" {trained[:12]}, but {tokenizers_dir} holds {tokenizer.fingerprint[:12]};"
                " pass the --tokenizers that its dataset was prepared with."
            )
    trained = engine.Trained(
        config=lm.model_from_meta(meta),
        clip=from_json(ClipShape, meta["clip"]),
        sound=from_json(SoundShape, meta["sound"]) if meta["sound"] else None,
        tasks={name: from_json(Task, task) for name, task in meta["task_values"].items()},
        facts={
            "model_dir": str(checkpoint_dir),
            "step": meta["step"],
            "dataset_fingerprint": meta["dataset_fingerprint"],
            "tokenizers": meta["tokenizers"],
        },
    )
    return engine.Engine(
        params=checkpoint.load_params(checkpoint_dir),
        trained=trained,
        tokenizers=engine.Tokenizers(
            visual=visual, audio=audio, text=lm.text_tokenizer_from_meta(meta)
        ),
        decoding=decoding,
    )


def load_tokenizers(folder: str):
    """(visual, audio) tokenizers of a folder.

    Raises:
      UserError: One is missing, naming the command that makes it.
    """
    from poet.tokenizers import protocol

    for kind in ("visual", "audio"):
        path = epath.Path(folder) / kind
        if not (path / "config.json").exists():
            raise commands.UserError(
                f"Expected a trained {kind} tokenizer in {path}, found none; make it with"
                f" `poet train-tokenizer --gin_file=gin/tokenizers/{kind}_demo.gin --media=..."
                f" --out={path}`, run `make demo`, or pass --tokenizers."
            )
    return protocol.load(epath.Path(folder) / "visual"), protocol.load(epath.Path(folder) / "audio")

"""Turns the pickled weights of a T5 folder into safetensors, which Poet reads.

    python tools/convert_t5.py --src t5-v1_1-xl --dst t5-v1_1-xl-safe

Needs torch (`make setup EXTRAS=torch`). Pickles are read by torch's loader for weights alone,
which runs nothing; a file that holds more is refused.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

from poet.main import commands
from poet.models import t5_weights
from poet.tokenizers import weight_files

_BIN, _INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"


def main(argv: list[str] | None = None) -> int:
    """Writes DST/model.safetensors and DST/config.json; 0, or 2 after one sentence."""
    return commands.run_command(_run, argv)


def _run(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--src", required=True, help="folder with config.json and .bin files")
    parser.add_argument("--dst", required=True, help="new folder for the safetensors")
    args = parser.parse_args(argv)
    src, dst = Path(args.src), Path(args.dst)
    config = t5_weights.read_config(src)
    tensors = {}
    for path in _files(src):
        found = weight_files.read(path)
        # The encoder alone: half of the file, and each tensor once.
        tensors |= {name: found[name] for name in found if _is_encoder(name)}
    if "shared.weight" in tensors:
        tensors.pop("encoder.embed_tokens.weight", None)
    _write(tensors, src, dst)
    try:
        t5_weights.read_params(dst, config)
    except ValueError:
        shutil.rmtree(dst)
        raise
    print(f"{len(tensors)} tensors of the encoder: {dst}")
    return 0


def _files(src: Path) -> list[Path]:
    if (src / _INDEX).exists():
        names = set(json.loads((src / _INDEX).read_text()).get("weight_map", {}).values())
        return [src / Path(name).name for name in sorted(names)]
    return [src / _BIN]


def _is_encoder(name: str) -> bool:
    return name == "shared.weight" or name.startswith("encoder.")


def _write(tensors, src: Path, dst: Path) -> None:
    """Appears under its name only when it is whole."""
    from safetensors.numpy import save_file

    if dst.exists():
        raise commands.UserError(f"{dst} is there already; give a new folder.")
    partial = dst.with_name(f".{dst.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(tensors, partial / t5_weights.WEIGHTS_NAME)
    shutil.copy(src / t5_weights.CONFIG_NAME, partial)
    partial.rename(dst)


if __name__ == "__main__":
    sys.exit(main())

"""Makes a tokenizer folder that stands for a published tokenizer, or for one of your own.

    python tools/adopt_tokenizer.py --kind dac --out tokenizers/audio \\
        --set folder=/data/dac_16khz --set num_levels=4
    python tools/adopt_tokenizer.py --kind emu3 --out tokenizers/visual --set folder=/data/emu3_vq
    python tools/adopt_tokenizer.py --kind my_module:MyTokenizer --out tokenizers/visual

`poet prepare`, `train` and `generate` then take the folder like a trained one. Nothing is copied or
fetched: the weights stay where they are, and the fingerprint says whether they are the same.
"""

import argparse
import json
import sys

from poet.main import commands


def main(argv: list[str] | None = None) -> int:
    """Writes OUT/config.json; 0, or 2 after one sentence."""
    return commands.run_command(_run, argv)


def _run(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", required=True, help="emu3, dac, encodec, mimi or MODULE:CLASS")
    parser.add_argument("--out", required=True, help="folder of the tokenizer")
    parser.add_argument("--set", action="append", default=[], help="NAME=VALUE, may be repeated")
    flags = parser.parse_args(argv)

    from poet.tokenizers import protocol

    settings = dict(_setting(text) for text in flags.set)
    tokenizer = protocol.adopt(flags.out, flags.kind, **settings)
    for name, value in protocol.describe(tokenizer).items():
        print(f"{name:18} {value}")
    if not tokenizer.is_causal:
        print("It is not causal: what a task is given has seen what follows it.")
    print(f"Tokenizer folder: {flags.out}")
    return 0


def _setting(text: str):
    name, is_pair, value = text.partition("=")
    if not is_pair:
        raise commands.UserError(f"Expected --set NAME=VALUE, got {text!r}.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


if __name__ == "__main__":
    sys.exit(main())

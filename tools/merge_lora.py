"""Writes a trained model and its adapters as one whole model, which needs neither any more.

    python tools/merge_lora.py --checkpoint out/lora --out out/merged

The adapters name their base by path and fingerprint; --base says where it lies now. Neither folder
is changed. `poet generate`, and `init_from` of another run, take OUT like any trained model.
"""

import argparse
import sys

from poet.main import commands


def main(argv: list[str] | None = None) -> int:
    """Writes OUT; 0, or 2 after one sentence."""
    return commands.run_command(_run, argv)


def _run(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True, help="MODEL_DIR of the adapters")
    parser.add_argument("--out", required=True, help="a new folder for the merged model")
    parser.add_argument("--base", default="", help="where their base lies now")
    parser.add_argument("--ema", action="store_true", help="take the averaged adapters")
    flags = parser.parse_args(argv)

    import jax.numpy as jnp
    from etils import epath

    from poet.train import checkpoint, lm, lora, state

    meta = checkpoint.read_meta(flags.checkpoint)
    if meta.get("kind") != lora.KIND:
        raise commands.UserError(
            f"{flags.checkpoint} should hold adapters, but holds {meta.get('kind')!r}; pass the"
            " MODEL_DIR of a run such as gin/runs/finetune_lora.gin."
        )
    if epath.Path(flags.out).exists():
        raise commands.UserError(f"{flags.out} is there already; name a new folder with --out.")
    params = lora.load_merged(flags.checkpoint, meta, averaged=flags.ema, base_dir=flags.base)
    facts = {name: fact for name, fact in meta.items() if name != "base"}
    facts |= {"kind": lm.KIND, "adapters": None}
    facts["merged_from"] = {"adapters": flags.checkpoint, "base": meta["base"]}
    merged = state.create(params, {}).replace(step=jnp.asarray(meta["step"], jnp.int32))
    with checkpoint.Checkpoints(flags.out) as checkpoints:
        checkpoints.save(merged, facts)
    print(f"Merged model: {flags.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Turns published weights of a metric's network into a file that Poet's evaluations read.

    tool=tools/convert_metric_weights.py
    python $tool --kind i3d --src i3d_torchscript.pt --dst i3d.safetensors --check
    python $tool --kind c3d --src conv3d_deepnetA_ucf.npz mean2.npz --dst c3d.safetensors
    python $tool --kind clip --src clip-vit-base-patch16 --dst clip_b16.safetensors
    python $tool --kind vggish --src vggish_model.ckpt --dst vggish.safetensors

Runs nothing of a file and fetches nothing. Files of torch need no torch. TensorFlow's (a
checkpoint, its .index, a folder of TensorFlow Hub) need TensorFlow once, for its reader of
checkpoints. --check computes FVD of black to white clips with the new I3D, whose value is known.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from poet.evals import clip_folder, i3d, metric_weights, weight_import
from poet.main import commands


def main(argv: list[str] | None = None) -> int:
    """Writes DST; 0, or 2 after one sentence."""
    return commands.run_command(_run, argv)


def _run(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", required=True, choices=metric_weights.KINDS)
    parser.add_argument("--src", required=True, nargs="+", help="the published file, or files")
    parser.add_argument("--dst", required=True, help="new file, .safetensors or .npz")
    parser.add_argument(
        "--epsilon",
        type=float,
        help="i3d: what the file's own network adds to variances, if its text does not say so"
        f" (default {i3d.EPSILON}; VideoGPT's class adds 1e-5)",
    )
    parser.add_argument("--check", action="store_true", help="i3d: FVD of black to white")
    args = parser.parse_args(argv)
    for path in args.src:
        if not _is_there(Path(path)):
            raise ValueError(metric_weights.what_to_get(args.kind, path))
    if args.kind == "clip":
        tensors, facts = clip_folder.read_folder(args.src[0])
        config = clip_folder.config_of(clip_folder.parsed(facts["config"], clip_folder.CONFIG))
        network = clip_folder.network_of(config)
    else:
        tensors, facts = _converted(args.kind, [Path(path) for path in args.src], args.epsilon)
        network = metric_weights.network_of(args.kind)
    metric_weights.check(tensors, network, args.kind, args.src[0])
    facts["num_numbers"] = network.count(network.shapes())
    metric_weights.save(args.dst, tensors, facts)
    print(f"{facts['num_numbers']:,} numbers of {args.kind}: {args.dst}")
    print(metric_weights.note_of(args.kind, facts["source_sha256"]))
    if args.check and args.kind == "i3d":
        params = metric_weights.load(args.dst, "i3d").params
        found = i3d.black_to_white(i3d.I3DFeatures(params), num_frames=15)
        print(f"FVD of black to white, 15 frames: {found:.3f} (expected 131 to 134.24)")
    return 0


def _converted(kind: str, paths: list[Path], epsilon: float | None):
    found, told = {}, set()
    for path in paths:
        if _is_tensorflow(path):
            found |= _tensorflow_tensors(path)
        else:
            tensors, epsilons = weight_import.read_source(path)
            found, told = found | tensors, told | epsilons
    if kind == "i3d":
        if epsilon is None and len(told) > 1:
            raise ValueError(f"{paths[0]} has batch norms of several epsilons, {sorted(told)}.")
        epsilon = epsilon if epsilon is not None else next(iter(told), i3d.EPSILON)
        made = weight_import.import_i3d(found, epsilon)
    else:
        made = getattr(weight_import, f"import_{kind}")(found)
    facts = {
        "kind": kind,
        "source": " and ".join(path.name for path in paths),
        "source_sha256": "+".join(_sha256(path) for path in paths),
        "layout": made.layout,
        "key_map": made.key_map,
    }
    if kind == "i3d":
        facts["source_epsilon"] = epsilon
    return made.tensors, facts


def _is_there(path: Path) -> bool:
    return path.exists() or path.with_name(f"{path.name}.index").exists()


def _is_tensorflow(path: Path) -> bool:
    is_named = path.is_dir() or path.suffix in (".ckpt", ".index")
    return is_named or not path.exists() and path.with_name(f"{path.name}.index").exists()


def _sha256(path: Path) -> str:
    """Of a checkpoint that is several files, of the one that holds the numbers."""
    if path.exists() and path.suffix != ".index":
        return metric_weights.sha256_of(path)
    base = path.name.removesuffix(".index")
    parts = sorted(path.parent.glob(f"{base}.data-*"))
    return "+".join(metric_weights.sha256_of(part) for part in parts)


def _tensorflow_tensors(path: Path) -> dict[str, np.ndarray]:
    """Name -> array of a checkpoint; TensorFlow reads it as data, no graph is built or run."""
    try:
        import tensorflow as tf
    except ImportError as error:
        raise ValueError(
            f"{path} is a checkpoint of TensorFlow, which is not installed; `pip install"
            " tensorflow` once, for the conversion alone."
        ) from error
    if (path / "variables").is_dir():
        path = path / "variables" / "variables"
    prefix = str(path).removesuffix(".index")
    try:
        reader = tf.train.load_checkpoint(prefix)
        return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        raise ValueError(f"{path} is no whole checkpoint of TensorFlow ({first}).") from error


if __name__ == "__main__":
    sys.exit(main())

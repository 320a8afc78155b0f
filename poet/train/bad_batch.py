"""The batch of a step that went wrong, kept for looking at."""

import io
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

FOLDER = "non_finite"


def save(model_dir: epath.PathLike, step: int, group: str, batch: Mapping[str, Any]) -> epath.Path:
    """Writes MODEL_DIR/non_finite/step_N.npz, with the process's number where there are several.

    Args:
      step: Counted from 1, as in metrics.
      group: What kind of batch it is; kept as the array "group".
      batch: Name -> numpy array, as the program gives it: this process's rows.

    Returns:
      The file. `numpy.load` reads it.
    """
    of_process = f"_process_{jax.process_index()}" if jax.process_count() > 1 else ""
    path = epath.Path(model_dir) / FOLDER / f"step_{step}{of_process}.npz"
    file = io.BytesIO()
    np.savez_compressed(file, group=group, **{name: np.asarray(v) for name, v in batch.items()})
    path.parent.mkdir(parents=True, exist_ok=True)
    if "://" in str(path):  # In an object store a file is there as a whole, or not at all.
        path.write_bytes(file.getvalue())
        return path
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(file.getvalue())
    return partial.replace(path)

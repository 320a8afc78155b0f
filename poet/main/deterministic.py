"""--deterministic: a GPU computes the same bits again, and a restart takes the same kernels.

XLA reads its flags when the first backend starts, so that they have to be set before: after the
processes are joined and the gin files are read, which starts none, and before `check_accelerator`.
"""

import argparse
import json
import os
import shlex
from pathlib import Path

from poet.main import commands

# The first lets XLA choose kernels without timing them, the second leaves out operations that add
# in no fixed order; the first implies the second, and versions differ in which pass asks for which.
_OPERATIONS = ("xla_gpu_deterministic_ops", "xla_gpu_exclude_nondeterministic_ops")
_FOLDER_FLAG = "xla_gpu_per_fusion_autotune_cache_dir"
# XLA has another way to keep what it tuned, which does not mix with a folder.
_FILE_FLAGS = ("xla_gpu_dump_autotune_results_to", "xla_gpu_load_autotune_results_from")
_PLACES = (_FOLDER_FLAG, *_FILE_FLAGS)

FOLDER = "autotuning"
_RECORD = "deterministic.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flag of commands that train."""
    parser.add_argument(
        "--deterministic",
        action="store_true",
        help="on GPUs: slower operations that give the same bits each time, and kernels chosen"
        " once and kept beside the checkpoints",
    )


def prepare(is_asked: bool, model_dir: str | os.PathLike) -> str:
    """Sets XLA's flags if asked, else only looks; returns a line to print, "" for none.

    Warns when the run that goes on in MODEL_DIR was started the other way. What XLA_FLAGS holds
    stays in it; a folder or file for what is tuned that it names is used in place of MODEL_DIR.

    Raises:
      commands.UserError: XLA_FLAGS asks for the opposite, or MODEL_DIR is no local folder.
    """
    line = _set_flags(model_dir) if is_asked else ""
    _compare_with_before(is_asked, model_dir)
    return line


def _set_flags(model_dir: str | os.PathLike) -> str:
    import jax
    import jaxlib

    given = os.environ.get("XLA_FLAGS", "")
    # Each version of the compiler has its own fusions; XLA does not look whose results it reads.
    folder = os.path.join(os.fspath(model_dir), FOLDER, f"jaxlib_{jaxlib.__version__}")
    os.environ["XLA_FLAGS"] = with_flags(given, folder)
    # Where programs are kept on disk too, jax would set another folder over that of XLA_FLAGS.
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
    place = "where XLA_FLAGS says"
    if not any(name in given for name in _PLACES):
        Path(folder).mkdir(parents=True, exist_ok=True)
        place = f"in {folder}"
    return f"Deterministic operations on GPUs; the choice of their kernels is kept {place}."


def with_flags(given: str, folder: str) -> str:
    """XLA_FLAGS with the operations, and with a folder for results unless it names a place.

    Raises:
      commands.UserError: see `prepare`.
    """
    if given.strip() and not given.lstrip().startswith("-"):
        raise commands.UserError(
            f"XLA_FLAGS names a file ({given}), to which --deterministic cannot add; put the"
            " file's flags into XLA_FLAGS themselves."
        )
    values = dict(_name_and_value(word) for word in shlex.split(given))
    added = []
    for name in _OPERATIONS:
        if values.get(name, "true").lower() in ("false", "0"):
            raise commands.UserError(
                f"--deterministic sets --{name}=true, but XLA_FLAGS has --{name}={values[name]};"
                " leave out the one or the other."
            )
        if name not in values:
            added.append(f"--{name}=true")
    if not values.keys() & set(_PLACES):
        if "://" in folder:
            raise commands.UserError(
                f"XLA keeps the kernels that it chose in a local folder, and {folder} is none; add"
                f" --{_FOLDER_FLAG}=FOLDER to XLA_FLAGS, a folder that is there again when the run"
                " is started again."
            )
        path = os.path.abspath(folder).replace("\\", "\\\\").replace('"', '\\"')
        added.append(f'--{_FOLDER_FLAG}="{path}"')
    return " ".join([*filter(None, [given.strip()]), *added])


def _name_and_value(word: str) -> tuple[str, str]:
    name, equals, value = word.lstrip("-").partition("=")
    return name, value if equals else "true"


def _compare_with_before(is_asked: bool, model_dir: str | os.PathLike) -> None:
    """Writes down how a fresh run begins; warns where one goes on the other way."""
    from absl import logging
    from etils import epath

    from poet.train import checkpoint

    record = epath.Path(model_dir) / _RECORD
    try:
        checkpoint.newest_step(model_dir)
    except ValueError:  # It begins.
        if is_asked:
            record.parent.mkdir(parents=True, exist_ok=True)
            record.write_text(json.dumps({"deterministic": True}))
        elif record.exists():
            record.unlink(missing_ok=True)
        return
    if record.exists() != is_asked:
        logging.warning(
            "The run in %s was started %s --deterministic and goes on %s; on GPUs it will not end"
            " with the same bits as a run that was never stopped.",
            model_dir,
            *(("without", "with it") if is_asked else ("with", "without it")),
        )

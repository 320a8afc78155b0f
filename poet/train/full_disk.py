"""A disk without space ends a run with one sentence, and leaves the last whole checkpoint alone."""

import contextlib
import errno
from collections.abc import Iterator

import jax
from absl import logging
from etils import epath

from poet.train import checkpoint

_NUMBERS = (errno.ENOSPC, errno.EDQUOT)
# Orbax's threads and tensorstore pass on the words of the system in exceptions of many types.
_WORDS = ("No space left on device", "Disk quota exceeded")


class FullDiskError(ValueError):
    """There is no space for checkpoints or metrics; says what is kept and what to do."""


def reason(error: BaseException | None) -> str:
    """The system's words in an exception, or in one that it comes from; "" if no disk is full."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in _NUMBERS:
            return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        for part in getattr(error, "exceptions", ()):
            if found := reason(part):
                return found
        for words in _WORDS:
            if words in str(error):
                return words
        error = error.__cause__ or error.__context__
    return ""


@contextlib.contextmanager
def told(model_dir: epath.PathLike) -> Iterator[None]:
    """Turns whatever a full disk raises inside into one error; enter it before what writes.

    Checkpoints are written in the background: a disk that was full then is only heard of at the
    next save or at the end. What was written of the step that did not fit is removed,
    by the next start where there are several processes.

    Raises:
      FullDiskError: naming the folder and the step to go on from.
    """
    try:
        yield
    except Exception as error:
        why = reason(error)
        if not why:
            raise
        kept = "no checkpoint was whole yet"
        with contextlib.suppress(ValueError):
            kept = f"the last whole checkpoint is step {checkpoint.newest_step(model_dir)}"
        if jax.process_count() == 1:  # Others may still be writing; the next start removes theirs.
            _remove_halves(model_dir)
        raise FullDiskError(
            f"No space is left to write to {model_dir} ({why}); {kept}. Free space there, or keep"
            " fewer checkpoints (LoopConfig.num_kept), then start the same command again: it goes"
            " on from there."
        ) from error


def _remove_halves(model_dir: epath.PathLike) -> None:
    try:
        checkpoint.remove_halves(model_dir)
    except OSError as error:  # The sentence about the disk is worth more.
        logging.warning("A half-written step could not be removed: %s", error)

"""Checkpoints: one Orbax directory a step, with the parameters, the rest of the state and facts.

    MODEL_DIR/checkpoints/120/params   parameters alone, so that sampling reads nothing else
    MODEL_DIR/checkpoints/120/rest     step, optimizer state, extra
    MODEL_DIR/checkpoints/120/ema      averaged parameters, of a run that keeps them
    MODEL_DIR/checkpoints/120/meta     JSON: what the run was, see `read_meta`
    MODEL_DIR/checkpoints/120/metrics  JSON: {"loss": number}, of a run that keeps the best step too

A step appears under its number only when it is whole. Arrays restore onto any mesh, see
`poet.train.reading` for who reads them.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from poet.train import agreement, reading
from poet.train.partitioning import path_names
from poet.train.state import TrainState

FOLDER = "checkpoints"
_ITEMS = ("params", "rest", "ema", "meta")
# Parameters of another shape that an error names.
_NUM_SHOWN = 5
# Of the folder that Orbax writes a step to before it renames it to its number.
_HALF = ".orbax-checkpoint-tmp"


class Checkpoints:
    """The checkpoints of one run; writes happen in the background. Use it in a `with`."""

    def __init__(self, model_dir: epath.PathLike, num_kept: int = 2, keeps_best: bool = False):
        self.folder = epath.Path(model_dir) / FOLDER
        self._keeps_best = keeps_best
        self._best_loss: float | None = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"Checkpoints cannot be written to {model_dir} ({error.strerror or error});"
                " choose a folder you may write to."
            ) from error
        if jax.process_index() == 0:
            remove_halves(self.folder)  # Of a process that was killed while it wrote.
            _remove_unreadable_losses(self.folder)
        agreement.all_say(True)  # No process looks before they are gone.
        options = ocp.CheckpointManagerOptions(create=True, **_kept(num_kept, keeps_best))
        self._manager = ocp.CheckpointManager(
            reading.absolute(self.folder), options=options, item_names=_ITEMS
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def latest_step(self) -> int | None:
        """Number of the newest whole checkpoint, or None."""
        return self._manager.latest_step()

    def best_loss(self) -> float:
        """The least loss that a kept step was saved with, infinite for none.

        Minus infinity where the best step is not kept, so that no loss is less.
        """
        if not self._keeps_best:
            return -math.inf
        if self._best_loss is None:
            kept = (self._manager.metrics(step) for step in self._manager.all_steps())
            self._best_loss = min((found["loss"] for found in kept if found), default=math.inf)
        return self._best_loss

    def save(self, state: TrainState, meta: dict[str, Any], loss: float = math.inf) -> None:
        """Starts writing `state` under its step number; the state may be donated right after.

        A step that is there already is left as it is. The step with the least `loss` is kept where
        the best one is; one that was not evaluated has an infinite one.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        rest = {"step": state.step, "opt_state": state.opt_state, "extra": state.extra}
        items = {"params": state.params, "rest": rest}
        if state.ema:
            items["ema"] = state.ema
        saves = {name: ocp.args.StandardSave(item) for name, item in items.items()}
        meta = ocp.args.JsonSave(meta | {"step": step})
        self._best_loss = min(loss, self.best_loss())
        args = ocp.args.Composite(**saves, meta=meta)
        metrics = {"loss": loss} if self._keeps_best else None
        self._manager.save(step, args=args, metrics=metrics, force=True)

    def restore_latest(self, like: TrainState) -> TrainState | None:
        """Returns the newest state that can be read, or None when there is no checkpoint.

        Steps that cannot be read (a torn disk, a half-copied folder) are set aside under another
        name and the one before is taken. With several processes all of them have to call it, and
        a step counts as readable when all can read it.

        Args:
          like: Arrays or ShapeDtypeStructs with the shapes, types and shardings to restore to.

        Raises:
          ValueError: when checkpoints are there but none fits `like`.
        """
        failed, reason = [], None
        for step in sorted(self._manager.all_steps(), reverse=True):
            state, error = self._try(step, like)
            if state is not None:
                self._set_aside(failed, step)
                return state
            logging.warning("Checkpoint %d: %s", step, error)
            failed.append(step)
            reason = reason or error
        if failed:
            first_line = (str(reason).strip() or type(reason).__name__).splitlines()[0]
            raise ValueError(
                f"No checkpoint under {self.folder} fits this model (steps {failed}):"
                f" {first_line[:1000]}. Use the settings the run was started with, or another"
                " MODEL_DIR."
            ) from reason
        return None

    def reached_preemption(self, step: int) -> bool:
        """True on every host of a multi-host job once one of them was told to stop."""
        return jax.process_count() > 1 and self._manager.reached_preemption(step)

    def wait(self) -> None:
        """Returns when everything saved so far is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Finishes writing and lets go of the folder."""
        try:
            self._manager.wait_until_finished()
        finally:  # Also when the last step could not be written.
            self._manager.close()

    def _try(self, step: int, like: TrainState) -> tuple[TrainState | None, Exception | None]:
        """(the state, None), or (None, why not); all processes get the one or the other."""
        error = None
        try:
            _meta(self.folder, step)  # A run reads its facts from the step that it goes on from.
            self._check_shapes(step, like.params)
        except (ConnectionError, TimeoutError):
            raise  # The step may be good: the next start can read it.
        except Exception as problem:  # Orbax raises many types for unreadable files.
            error = problem
        if not agreement.all_say(error is None):
            return None, error or ValueError(f"another process cannot read step {step}")
        try:
            return self._restore(step, like), None
        except ValueError as problem:
            return None, problem

    def _restore(self, step: int, like: TrainState) -> TrainState:
        rest = {"step": like.step, "opt_state": like.opt_state, "extra": like.extra}
        items = {"params": like.params, "rest": rest}
        has_ema = (self.folder / str(step) / "ema").exists()
        if like.ema and has_ema:
            items["ema"] = like.ema
        found = {
            name: reading.read(self.folder / str(step) / name, jax.tree.map(_shape_of, item))
            for name, item in items.items()
        }
        params, rest = found["params"], found["rest"]
        ema = found.get("ema", {})
        if like.ema and not has_ema:
            logging.info("Step %d has no averaged weights; the average begins with it.", step)
            ema = jax.tree.map(jnp.copy, {name: params[name] for name in like.ema})
        return TrainState(rest["step"], params, rest["opt_state"], rest["extra"], ema)

    def _check_shapes(self, step: int, params: Any) -> None:
        """ValueError on parameters that differ: clearer than Orbax's, and sooner."""
        if wrong := shape_difference(self.folder, step, params):
            raise ValueError(wrong)

    def _set_aside(self, failed: list[int], taken: int) -> None:
        for step in failed:
            logging.warning(
                "Checkpoint %d cannot be read; continuing from %d. It is kept as unreadable_%d.",
                step,
                taken,
                step,
            )
            if jax.process_index() == 0:
                target = self.folder / f"unreadable_{step}"
                if target.exists():
                    target.rmtree()
                (self.folder / str(step)).rename(target)
        if failed:
            agreement.all_say(True)  # No process looks before they are gone.
            self._manager.reload()


def _kept(num_kept: int, keeps_best: bool) -> dict[str, Any]:
    """Orbax's options for which steps stay."""
    newest = LatestN(num_kept)
    if not keeps_best:
        return {"preservation_policy": newest}

    def loss(metrics: dict[str, float]) -> float:
        return metrics["loss"]

    best = BestN(get_metric_fn=loss, reverse=True, n=1, keep_checkpoints_without_metrics=False)
    both = AnyPreservationPolicy([newest, best])
    # Without best_fn Orbax writes no metrics.
    return {"preservation_policy": both, "best_fn": loss, "best_mode": "min"}


def newest_step(model_dir: epath.PathLike) -> int:
    """Returns the newest whole step under MODEL_DIR (or under its checkpoints folder).

    Raises:
      ValueError: when there is none.
    """
    steps = _steps(_folder(model_dir))
    if not steps:
        raise ValueError(
            f"{model_dir} holds no checkpoint; expected a MODEL_DIR that `poet train` has written"
            " to. Train one first, or pass another --checkpoint."
        )
    return steps[-1]


def remove_halves(model_dir: epath.PathLike) -> None:
    """Removes what Orbax had written of steps that did not become whole; nothing may be writing."""
    folder = _folder(model_dir)
    for path in folder.iterdir() if folder.is_dir() else ():
        number, mark, _ = path.name.partition(_HALF)
        if mark and number.isdigit():
            path.rmtree()


def best_step(model_dir: epath.PathLike) -> int:
    """Returns the kept step that had the least loss of its run's `LoopConfig.best_of`.

    Raises:
      ValueError: when no checkpoint has such a loss.
    """
    folder, losses = _folder(model_dir), {}
    for step in _steps(folder):
        path = folder / str(step) / "metrics" / "metrics"
        if path.exists():
            losses[step] = json.loads(path.read_text())["loss"]
    if not losses:
        raise ValueError(
            f"No checkpoint of {model_dir} says how good it is: its run was not told to keep the"
            " best one (LoopConfig.best_of). Take a step by its number, or the newest."
        )
    return min(losses, key=losses.__getitem__)


def find_step(model_dir: epath.PathLike, step: int | str) -> int:
    """Returns the kept step of that number, "best" or, for "", the newest.

    Raises:
      ValueError: when it is not there, saying which are.
    """
    if step == "":
        return newest_step(model_dir)
    if step == "best":
        return best_step(model_dir)
    kept = _steps(_folder(model_dir))
    if not str(step).isdigit() or int(step) not in kept:
        raise ValueError(
            f"{model_dir} has no checkpoint of step {step}; it has"
            f" {', '.join(map(str, kept)) or 'none'}. Take one of these, or 'best'."
        )
    return int(step)


def read_meta(model_dir: epath.PathLike, step: int | None = None) -> dict[str, Any]:
    """Returns the facts saved with a checkpoint, without its arrays.

    Args:
      model_dir: The MODEL_DIR of a run.
      step: Which checkpoint; None takes the newest whose facts can be read, as a run does that
        goes on.

    Raises:
      ValueError: when there is no checkpoint, or its facts cannot be read.
    """
    if step is not None:
        return _meta(_folder(model_dir), step)
    newest = newest_step(model_dir)
    for step in reversed(_steps(_folder(model_dir))):
        try:
            return _meta(_folder(model_dir), step)
        except ValueError as error:
            logging.warning("%s", error)
    return _meta(_folder(model_dir), newest)


def fingerprint(model_dir: epath.PathLike, step: int | None = None) -> str:
    """Hex digest of the parameters of a checkpoint (default: the newest): its files, no times."""
    step = newest_step(model_dir) if step is None else step
    folder = _folder(model_dir) / str(step) / "params"
    digest = hashlib.sha256()
    for path in _files(folder):
        digest.update(f"{path.relative_to(folder)}\n".encode())
        with path.open("rb") as stream:
            while block := stream.read(2**24):
                digest.update(block)
    return digest.hexdigest()


def shape_difference(model_dir: epath.PathLike, step: int, params: Any) -> str:
    """Which parameters of a checkpoint differ in shape, in words; "" if none does."""
    path = _folder(model_dir) / str(step) / "params"
    found, wanted = _shapes(_saved_shapes(path)), _shapes(params)
    wrong = [
        f"{name} is {found.get(name, 'absent')} in the checkpoint and"
        f" {wanted.get(name, 'absent')} in the model"
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    ]
    if not wrong:
        return ""
    shown, num_more = wrong[:_NUM_SHOWN], len(wrong) - _NUM_SHOWN
    return f"parameter {', '.join(shown)}" + (f", and {num_more} more" if num_more > 0 else "")


def load_params(
    model_dir: epath.PathLike, step: int | None = None, like: Any = None, averaged: bool = False
) -> Any:
    """Returns the parameters of a checkpoint (default: the newest), nothing else.

    Args:
      model_dir: The MODEL_DIR of a run.
      step: Which checkpoint.
      like: Shapes with shardings to restore onto a mesh; None gives arrays on the first device,
        whatever mesh they were trained on.
      averaged: Take the moving average of what trained; what was frozen is as it was.

    Raises:
      ValueError: when there is no checkpoint, its parameters cannot be read, or it has no averages.
    """
    step = newest_step(model_dir) if step is None else step
    folder = reading.absolute(_folder(model_dir) / str(step))
    if not averaged:
        return _read_item(folder / "params", like)
    if not (folder / "ema").exists():
        raise ValueError(
            f"Step {step} of {model_dir} has no averaged weights; train with an Updates.ema_decay,"
            " such as 0.999, or take the weights as they are."
        )
    names = set(_saved_shapes(folder / "ema"))
    means = _read_item(folder / "ema", like and {name: like[name] for name in names})
    if names == set(_saved_shapes(folder / "params")):
        return means
    return _read_item(folder / "params", like) | means


def _read_item(path: epath.Path, like: Any) -> Any:
    if like is not None:
        try:
            return reading.read(path, jax.tree.map(_shape_of, like))
        except ValueError as error:
            raise ValueError(f"{error}. Take an earlier step, or train again.") from error
    with ocp.StandardCheckpointer() as checkpointer:
        try:
            here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
            like = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
                _saved_shapes(path),
            )
            return checkpointer.restore(path, like)
        except (ValueError, OSError, KeyError, TypeError) as error:
            first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(
                f"The parameters at {path} cannot be read: {first_line[:300]}. Take an earlier"
                " step, or train again."
            ) from error


def _remove_unreadable_losses(folder: epath.Path) -> None:
    """Orbax reads the losses of all steps as it starts; they only choose which steps are kept."""
    for step in _steps(folder):
        path = folder / str(step) / "metrics" / "metrics"
        try:
            if path.exists():
                json.loads(path.read_text())
        except ValueError as error:
            logging.warning("The loss of checkpoint %d cannot be read (%s); left out.", step, error)
            path.unlink()


def _meta(folder: epath.Path, step: int) -> dict[str, Any]:
    path = folder / str(step) / "meta" / "metadata"
    try:
        return json.loads(path.read_text())
    except (ConnectionError, TimeoutError):
        raise
    except (OSError, ValueError) as error:
        raise ValueError(
            f"The facts of step {step} at {path} cannot be read: {error}. Take an earlier step, or"
            " train again."
        ) from error


def _folder(model_dir: epath.PathLike) -> epath.Path:
    folder = epath.Path(model_dir)
    return folder / FOLDER if (folder / FOLDER).exists() else folder


def _steps(folder: epath.Path) -> list[int]:
    if not folder.is_dir():
        return []
    names = [child.name for child in folder.iterdir()]
    return sorted(int(name) for name in names if name.isdigit() and _is_whole(folder / name))


def _is_whole(step: epath.Path) -> bool:
    # Google's store has no renames: there a step has its name from the start, and a file in it
    # when it is whole.
    return ocp.utils.is_checkpoint_finalized(step) and (step / "meta").exists()


def _files(folder: epath.Path) -> Iterator[epath.Path]:
    """Files below a folder in the order of their names; remote folders have no rglob."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        if path.is_dir():
            yield from _files(path)
        else:
            yield path


def _saved_shapes(path: epath.Path) -> Any:
    # The handler, not a checkpointer: that one warns that an item has no metadata of a whole step.
    return ocp.StandardCheckpointHandler().metadata(reading.absolute(path)).tree


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {"/".join(path_names(path)): tuple(leaf.shape) for path, leaf in leaves}


def _shape_of(leaf: Any) -> jax.ShapeDtypeStruct:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf
    if isinstance(leaf, jax.Array):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
    leaf = np.asarray(leaf)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)

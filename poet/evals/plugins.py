"""Metrics that a person brings: a module whose function `poet_metrics` returns them.

    def poet_metrics(given):
        network = load_it(given.weights("lpips"))  # --weights lpips=FILE
        return [given.picture_distance("lpips", network.distance, says="alex-0.1", weights="lpips")]

docs/evaluation.md has two whole ones. What a metric is made of belongs to its protocol: the words
of its author, the sha256 of its weights and that of the module's file, since other code gives other
numbers. All else (parts, killed runs, shards, intervals, comparisons) is as for metrics of ours.

Axes: B clips, T frames, Y rows, X columns, D features.
"""

import dataclasses
import hashlib
import importlib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from poet.evals import distance_metrics, metric, metric_weights
from poet.evals.metric import Case, Metric, Needs, Source
from poet.typing import Float, UInt8

FUNCTION = "poet_metrics"
_SHA_DIGITS = 12

PictureDistance = Callable[[UInt8[np.ndarray, "T Y X 3"], UInt8[np.ndarray, "T Y X 3"]], Any]
Features = Callable[[UInt8[np.ndarray, "B T Y X 3"]], Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Given:
    """What a plug-in is called with: its files, and makers of metrics.

    Attributes:
      plugin: Its name, as it was given.
      sha256: Of its file.
      files: Kind of weights -> file or folder, as `--weights` names them.
      batch_size: Clips that an extractor sees at once.
      asked: Kinds that it asked for so far.
    """

    plugin: str
    sha256: str
    files: Mapping[str, Path]
    batch_size: int = 8
    asked: set[str] = dataclasses.field(default_factory=set)

    def weights(self, kind: str) -> Path:
        """The file or folder that `--weights KIND=...` names.

        Raises:
          ValueError: None was given, or there is nothing.
        """
        self.asked.add(kind)
        if kind not in self.files:
            raise ValueError(
                f"Plug-in {self.plugin} needs weights that it calls {kind}, and none were given:"
                f" pass --weights {kind}=FILE (in gin, WEIGHTS={{'{kind}': 'FILE'}})."
            )
        path = Path(self.files[kind])
        if not path.exists():
            raise ValueError(f"Expected weights of {kind} at {path}, found none; check the path.")
        return path

    def picture_distance(
        self, name: str, distance: PictureDistance, *, says: str, weights: str = ""
    ) -> Metric:
        """A distance of pictures, such as LPIPS: the mean over frames, then over clips.

        Args:
          name: Of the metric.
          distance: (real, generated) pictures of a clip, uint8 RGB [T, Y, X, 3] each -> [T].
          says: What else changes the number, for the protocol, such as "alex-0.1".
          weights: The kind that it was made from; "" without any.
        """

        def score(case: Case) -> tuple[float, float]:
            found = np.asarray(distance(case.truth.frames, case.clip.frames), np.float64)
            count = len(case.clip.frames)
            self._check(name, found, (count,), f"a number for each of {count} pictures, [{count}]")
            return float(found.mean()), 1.0

        source = Source(
            name=f"plugin_{name}",
            rows=metric.score_rows(score),
            needs=Needs(has_pairs=True),
            about=self._about(name, weights),
        )
        return Metric(
            name=name,
            protocol=f"picture-distance/{self._seen(name, says, source)}/mean-of-frames",
            source=source,
            better="lower",
        )

    def frechet(
        self,
        name: str,
        features: Features,
        *,
        says: str,
        weights: str = "",
        num_frames: tuple[int, float] = (1, float("inf")),
    ) -> Metric:
        """The Frechet distance of features, such as content-debiased FVD.

        Args:
          name: Of the metric.
          features: uint8 RGB clips [B, T, Y, X, 3] -> [B, D]; a row hangs on its own clip only.
            Resizing and scaling of pixels are its own.
          says: What else changes the number, for the protocol, such as "mean-pooled/squash224".
          weights: The kind that it was made from; "" without any.
          num_frames: Least and most frames of a clip.
        """
        source = distance_metrics.feature_source(
            f"plugin_{name}",
            _Extractor(given=self, name=name, function=features),
            self.batch_size,
            Needs(num_frames=num_frames),
            self._about(name, weights),
        )
        return distance_metrics.frechet_metric(name, self._seen(name, says, source), source)

    def _check(self, name: str, found: np.ndarray, shape: tuple[int, ...], what: str) -> None:
        """Refuses an answer of another shape; -1 stands for any number."""
        fits = len(found.shape) == len(shape) and all(
            want in (-1, has) for want, has in zip(shape, found.shape, strict=True)
        )
        if not fits:
            raise ValueError(
                f"{name} of plug-in {self.plugin} gave an array of shape {found.shape}, expected"
                f" {what}; change what its function returns."
            )

    def _about(self, name: str, weights: str) -> dict[str, str]:
        facts = {"network": name, "plugin": self.plugin, "plugin_sha256": self.sha256}
        made_from = f"plug-in {self.plugin} (sha256 {self.sha256})"
        if not weights:
            return facts | {"weights_note": f"{name} is of {made_from}, which Poet does not check"}
        path = self.weights(weights)
        sha256 = metric_weights.sha256_of(path)
        note = f"{name} is of {made_from} and weights of sha256 {sha256}; Poet checks neither"
        return facts | {"weights": str(path), "weights_sha256": sha256, "weights_note": note}

    def _seen(self, name: str, says: str, source: Source) -> str:
        """What a protocol says of the plug-in and of its weights."""
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or not re.fullmatch(r"\S+", says):
            raise ValueError(
                f"Plug-in {self.plugin} calls a metric {name!r}, of which it says {says!r};"
                " expected a name of letters, digits, - and _, and words without spaces."
            )
        sha256 = source.about.get("weights_sha256", "")
        weights = f"{name}-{sha256[:_SHA_DIGITS]}" if sha256 else name
        return f"{weights}/{says}/plugin-{self.sha256[:_SHA_DIGITS]}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Extractor:
    """A plug-in's function as an extractor that says whose answer does not fit."""

    given: Given
    name: str
    function: Features

    def features(self, clips: UInt8[np.ndarray, "B T Y X 3"]) -> Float[np.ndarray, "B D"]:
        found = np.asarray(self.function(clips), np.float64)
        count = len(clips)
        what = f"a row of features for each of {count} clips, [{count}, D]"
        self.given._check(self.name, found, (count, -1), what)
        return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plugins:
    """What plug-ins gave.

    Attributes:
      metrics: Of all.
      kinds: Of weights that they asked for.
    """

    metrics: tuple[Metric, ...] = ()
    kinds: frozenset[str] = frozenset()


def load(names: Sequence[str], files: Mapping[str, Path], batch_size: int = 8) -> Plugins:
    """Imports plug-ins and asks them for their metrics.

    Args:
      names: Each MODULE or MODULE:FUNCTION; a module is a dotted name, installed or in the working
        directory, or the path of a .py file.
      files: Kind of weights -> file.
      batch_size: Clips that an extractor sees at once.

    Raises:
      ValueError: A module or function is not there or does not load, or gives no metrics.
    """
    found: list[Metric] = []
    kinds: set[str] = set()
    for name in names:
        place, _, function_name = name.partition(":")
        module = _module(place)
        function = getattr(module, function_name or FUNCTION, None)
        if not callable(function):
            raise ValueError(
                f"Plug-in {place} has no function {function_name or FUNCTION}; define"
                f" {FUNCTION}(given), or name another one as {place}:FUNCTION."
            )
        given = Given(
            plugin=name, sha256=_sha256_of(module, place), files=files, batch_size=batch_size
        )
        found += _metrics_of(name, function, given)
        kinds |= given.asked
    twice = sorted({one.name for one in found if [m.name for m in found].count(one.name) > 1})
    if twice:
        raise ValueError(f"Plug-ins give the metric {twice[0]} more than once; rename one of them.")
    return Plugins(metrics=tuple(found), kinds=frozenset(kinds))


def _metrics_of(name: str, function: Callable[..., Any], given: Given) -> list[Metric]:
    try:
        inspect.signature(function).bind(given)
    except TypeError as error:
        raise ValueError(
            f"The function of plug-in {name} is called with one argument, what it is given:"
            f" {error}; define it as {FUNCTION}(given)."
        ) from error
    try:
        found = function(given)
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(_failed(name, error)) from error
    found = [found] if isinstance(found, Metric) else found
    if not isinstance(found, (list, tuple)) or not all(isinstance(one, Metric) for one in found):
        raise ValueError(
            f"The function of plug-in {name} gave {type(found).__name__}, expected a list of"
            " metrics, as given.picture_distance and given.frechet make them."
        )
    return list(found)


def _failed(name: str, error: BaseException) -> str:
    words = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".")
    return f"Plug-in {name} could not be loaded, {words}; mend it (--debug shows where)."


def _module(name: str) -> ModuleType:
    try:
        if not name.endswith(".py"):
            try:
                return importlib.import_module(name)
            except ModuleNotFoundError as error:
                # Something that the module itself imports is missing: that is said below.
                if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                    raise
        return _module_of_file(name)
    except ValueError:
        raise
    except ModuleNotFoundError as error:
        raise ValueError(
            f"Plug-in {name} needs {error.name}, which is not installed here; install it."
        ) from error
    except Exception as error:
        raise ValueError(_failed(name, error)) from error


def _module_of_file(name: str) -> ModuleType:
    path = Path(name if name.endswith(".py") else f"{name.replace('.', os.sep)}.py").absolute()
    if not path.is_file():
        raise ValueError(
            f"Plug-in {name} was not found: neither an installed module nor the file {path}; give a"
            " dotted module name or the path of a .py file."
        )
    own = f"poet_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(own, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[own] = module  # as dataclasses of the plug-in need it
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[own]
        raise
    return module


def _sha256_of(module: ModuleType, name: str) -> str:
    path = getattr(module, "__file__", None)
    if not path:
        raise ValueError(f"Plug-in {name} is a folder without __init__.py; name a module in it.")
    return metric_weights.sha256_of(path)

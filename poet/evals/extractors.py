"""The extractors of the metrics from a user's converted weight files, with what names their scores.

    metric    extractor         gives
    FVD, KVD  i3d_features      400 logits a clip
    IS        c3d_logits        101 logits a clip of 16 frames
    FAD       vggish_features   128 numbers a second of sound
    CLIPSIM   clip_scorer.load  embeddings of frames and captions

Each function returns the extractor and the facts that belong beside a score: the network, its
conventions, the source of the weights, its sha256 and whether that is known.
"""

from pathlib import Path

from poet.evals import metric_weights
from poet.evals.c3d import C3DLogits
from poet.evals.i3d import I3DFeatures, Resize
from poet.evals.vggish import VGGishFeatures


def i3d_features(
    path: str | Path, *, resize: Resize | str = "squash_tf1"
) -> tuple[I3DFeatures, dict[str, str]]:
    """FVD's extractor from a converted file; `resize` as in `i3d.I3DFeatures`.

    Raises:
      ValueError: The file is missing (says what to get) or not I3D's, or `resize` is not known.
    """
    weights = metric_weights.load(path, "i3d")
    facts = {"network": "i3d", "resize": str(resize)} | weights.for_results()
    return I3DFeatures(weights.params, resize=resize), facts


def c3d_logits(path: str | Path) -> tuple[C3DLogits, dict[str, str]]:
    """The Inception Score's extractor from a converted file.

    Raises:
      ValueError: The file is missing (says what to get) or not C3D's.
    """
    weights = metric_weights.load(path, "c3d")
    return C3DLogits(weights.params), {"network": "c3d"} | weights.for_results()


def vggish_features(path: str | Path) -> tuple[VGGishFeatures, dict[str, str]]:
    """FAD's extractor from a converted file: no PCA, no last ReLU.

    Raises:
      ValueError: The file is missing (says what to get) or not VGGish's.
    """
    weights = metric_weights.load(path, "vggish")
    return VGGishFeatures(weights.params), {"network": "vggish"} | weights.for_results()

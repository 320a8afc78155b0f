"""Scores of videos from embeddings of their frames and captions, as CLIP gives them.

Embeddings may have any length; all scores are cosines in [-1, 1] (papers also print them times
100). Which network made the embeddings belongs beside the number: CLIP B/16 and B/32 differ.

Axes: N videos, T frames, D features.
"""

from typing import Literal

import numpy as np

from poet.typing import Float


def text_similarity(
    frames: Float[np.ndarray, "N T D"], captions: Float[np.ndarray, "N D"]
) -> Float[np.ndarray, "N"]:
    """Mean cosine of each video's frames with its caption; the mean over videos is CLIPSIM.

    GODIVA (arXiv 2104.14806): a cosine a frame, then the mean over frames, then over videos. The
    cosine of the mean frame would be another and larger number.

    Raises:
      ValueError: An embedding is 0 or not finite.
    """
    cosines = np.einsum("ntd,nd->nt", _unit(frames, "frame"), _unit(captions, "caption"))
    return cosines.mean(axis=1)


def frame_consistency(
    frames: Float[np.ndarray, "N T D"], *, pairs: Literal["consecutive", "all"]
) -> Float[np.ndarray, "N"]:
    """Mean cosine between frames of each video.

    Args:
      frames: Embeddings of the frames in their order.
      pairs: "consecutive", as Gen-1 (arXiv 2302.03011) has it; "all", every two frames once, as
        the evaluations of Tune-A-Video and LOVEU-TGVE 2023 have it.

    Raises:
      ValueError: Fewer than two frames, or an embedding is 0 or not finite.
    """
    num_frames = frames.shape[1]
    if num_frames < 2:
        raise ValueError(f"Consistency needs at least 2 frames, got {num_frames}.")
    unit = _unit(frames, "frame")
    if pairs == "consecutive":
        return np.einsum("ntd,ntd->nt", unit[:, 1:], unit[:, :-1]).mean(axis=1)
    cosines = np.einsum("ntd,nsd->nts", unit, unit)
    first, second = np.triu_indices(num_frames, k=1)
    return cosines[:, first, second].mean(axis=1)


def _unit(embeddings, what: str):
    wide = embeddings.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=-1, keepdims=True)
    if not (np.isfinite(lengths).all() and lengths.all()):
        raise ValueError(
            f"Expected finite {what} embeddings other than 0, got some that are not; a cosine with"
            " them means nothing. Look at the encoder."
        )
    return wide / lengths

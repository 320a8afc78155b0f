"""Farneback's optical flow by OpenCV, with the parameters that AV-Align's authors chose.

3 levels of half size, windows of 15, 3 iterations, polynomials over 5 pixels with sigma 1.2, on
grey pictures. It needs no weights; a score that used it does not compare with one that used RAFT.

Axes: T frames, Y rows, X columns.
"""

from typing import Any

import numpy as np

from poet.typing import Float, UInt8

_PARAMETERS: dict[str, Any] = dict(
    pyr_scale=0.5, levels=3, winsize=15, iterations=3, poly_n=5, poly_sigma=1.2, flags=0
)


def flow(
    sources: UInt8[np.ndarray, "T Y X 3"], targets: UInt8[np.ndarray, "T Y X 3"]
) -> Float[np.ndarray, "T Y X 2"]:
    """Where each pixel of a source lies in its target, in pixels, columns first; float32."""
    flows = [
        _flow(source, target) for source, target in zip(_grey(sources), _grey(targets), strict=True)
    ]
    return np.array(flows, np.float32).reshape(*sources.shape[:3], 2)


def _grey(frames):
    import cv2

    return [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in frames]


def _flow(source, target):
    import cv2

    start = np.zeros((*source.shape, 2), np.float32)
    return cv2.calcOpticalFlowFarneback(source, target, start, **_PARAMETERS)

"""Metrics of pictures and motion that need no network: PSNR, SSIM, flickering, warp and flow error.

Those of pairs compare a generated clip with the real one of its name: a reconstruction, a predicted
continuation, an edit. Flow is Farneback's.
"""

import numpy as np

from poet.evals import metric, motion, pictures, vbench
from poet.evals.metric import Case, Clip, Metric, Needs, Source

_PAIRS = Needs(has_pairs=True)
_MOVING_PAIRS = Needs(has_pairs=True, num_frames=(2, float("inf")))


def metrics() -> list[Metric]:
    """Metrics of pairs, and flickering."""
    return [
        Metric(
            name="psnr",
            protocol="psnr/mean-of-frame-dB/at-most-100",
            source=_source("psnr", _psnr, _PAIRS),
        ),
        Metric(
            name="ssim",
            protocol="ssim/grey/gauss11-1.5/mean-of-frames",
            source=_source("ssim", _ssim, _PAIRS),
        ),
        Metric(
            name="warp_error",
            protocol="warp_error/farneback-of-real/visible/mean-square",
            source=_source("warp_error", _warp_error, _MOVING_PAIRS),
            better="lower",
        ),
        Metric(
            name="flow_error",
            protocol="flow_error/farneback/end-point-px",
            source=_source("flow_error", _flow_error, _MOVING_PAIRS),
            better="lower",
        ),
        Metric(
            name="temporal_flickering",
            protocol="temporal_flickering/vbench/all-clips",
            source=_source("temporal_flickering", _flickering, Needs(num_frames=(2, np.inf))),
        ),
    ]


def _source(name, score, needs) -> Source:
    return Source(name=name, rows=metric.score_rows(score), needs=needs)


def _psnr(case: Case) -> tuple[float, float]:
    return float(pictures.psnr_db(_unit(case.truth), _unit(case.clip)).mean()), 1.0


def _ssim(case: Case) -> tuple[float, float]:
    return float(pictures.ssim(_unit(case.truth), _unit(case.clip)).mean()), 1.0


def _warp_error(case: Case) -> tuple[float, float]:
    real = case.truth
    is_visible = motion.visible_pixels(real.flow_back, real.flow_forth)
    if not is_visible.any():
        # A real clip that is another picture in each frame says nothing about the generated one.
        return 0.0, 0.0
    return motion.warp_error(_unit(case.clip), real.flow_back, is_visible), 1.0


def _flow_error(case: Case) -> tuple[float, float]:
    gaps = motion.end_point_error_px(case.clip.flow_forth, case.truth.flow_forth)
    return float(gaps.mean()), 1.0


def _flickering(case: Case) -> tuple[float, float]:
    return vbench.temporal_flickering(case.clip.frames), 1.0


def _unit(clip: Clip):
    """Pixels in [0, 1], float64."""
    return clip.frames / 255.0

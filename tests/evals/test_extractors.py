"""Extractors from files: the network with those weights, and the facts beside its scores."""

import numpy as np
import pytest
from random_weights import TINY_C3D, TINY_VGGISH, random_i3d, random_params

from poet.evals import extractors, metric_weights

TINY = {"c3d": TINY_C3D, "vggish": TINY_VGGISH}
FACTS = {"source": "a.npz", "source_sha256": "1" * 64}


def test_i3d(tmp_path):
    path = tmp_path / "i3d.npz"
    metric_weights.save(path, random_i3d(), FACTS | {"kind": "i3d"})
    extractor, facts = extractors.i3d_features(path, resize="squash_half_pixel")
    assert extractor._params["logits"]["bias"].shape == (400,)
    assert facts["network"] == "i3d" and facts["resize"] == "squash_half_pixel"
    assert facts["weights"] == "a.npz" and facts["weights_note"].startswith("UNVERIFIED")
    with pytest.raises(ValueError, match="resize='crop' must be one of"):
        extractors.i3d_features(path, resize="crop")


@pytest.mark.parametrize("kind", sorted(TINY))
def test_the_others(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(metric_weights, "network_of", TINY.__getitem__)
    path = tmp_path / "tiny.npz"
    params = random_params(TINY[kind])
    metric_weights.save(path, params, FACTS | {"kind": kind})
    make = {"c3d": extractors.c3d_logits, "vggish": extractors.vggish_features}[kind]
    extractor, facts = make(path)
    first = "conv1a" if kind == "c3d" else "conv1"
    found = extractor._params[first]["kernel"]
    np.testing.assert_array_equal(found, params[f"{first}/kernel"])
    assert facts["network"] == kind and facts["weights_sha256"] == "1" * 64
    with pytest.raises(ValueError, match="Poet fetches nothing: get one of"):
        make(tmp_path / "absent.npz")

"""Files of weights: written and read back, known sources told from others, bad files refused."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poet.evals import metric_weights
from poet.evals.metric_weights import Network

KNOWN = "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2"
TINY = Network(
    module=nn.Dense(2, name="dense"),
    inputs=(jax.ShapeDtypeStruct((1, 3), jnp.float32),),
    num_numbers=8,
)
FACTS = {"kind": "vggish", "source": "a.pth", "source_sha256": "10086976" + "0" * 56}


def tensors():
    return {"kernel": np.ones((3, 2), np.float32), "bias": np.zeros(2, np.float32)}


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_what_was_saved_is_loaded(suffix, tmp_path):
    path = tmp_path / "new" / f"weights.{suffix}"
    metric_weights.save(path, tensors(), FACTS | {"key_map": {"kernel": "a.weight"}})
    found = metric_weights.load(path, "vggish", TINY)
    np.testing.assert_array_equal(found.params["kernel"], tensors()["kernel"])
    assert found.facts["key_map"] == {"kernel": "a.weight"}
    assert found.for_results() == {
        "weights": "a.pth",
        "weights_sha256": FACTS["source_sha256"],
        "weights_note": "verified: vggish-10086976.pth, harritaylor's torchvggish",
    }
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    with pytest.raises(ValueError, match="is there already"):
        metric_weights.save(path, tensors(), FACTS)


def test_known_sources_are_verified_and_others_are_loud():
    assert metric_weights.note_of("i3d", KNOWN).startswith("verified: i3d_torchscript.pt")
    for kind, digest in (("i3d", "0" * 64), ("c3d", KNOWN), ("vggish", KNOWN)):
        note = metric_weights.note_of(kind, digest)
        assert note.startswith(f"UNVERIFIED WEIGHTS: sha256 {digest}")


def test_digests_of_files_and_folders(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    first = metric_weights.sha256_of(tmp_path / "a")
    assert first.startswith("ba7816bf8f01cfea414140de5dae2223")
    of_folder = metric_weights.sha256_of(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert metric_weights.sha256_of(tmp_path) != of_folder


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("i3d", r"i3d_torchscript.pt \(StyleGAN-V's .* 51,235,320 bytes; sha256 bec6519f66ea5"),
        ("c3d", r"conv3d_deepnetA_ucf.npz and mean2.npz \(TGAN2's pair"),
        ("clip", r"openai/clip-vit-base-patch16 or -patch32 \(Hugging Face"),
        ("vggish", r"vggish_model.ckpt .* vggish-10086976.pth .*sha256 10086976\.\.\."),
    ],
)
def test_a_missing_file_says_what_to_get(kind, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        metric_weights.read(tmp_path / "absent.safetensors", kind)


def test_what_does_not_fit_is_refused(tmp_path):
    def saved(change, facts=FACTS):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.safetensors"
        metric_weights.save(path, tensors() | change, facts)
        return path

    def load(path, network=TINY):
        return metric_weights.load(path, "vggish", network)

    with pytest.raises(ValueError, match=r"kernel in .* has shape \(2, 3\), but vggish needs"):
        load(saved({"kernel": np.ones((2, 3), np.float32)}))
    with pytest.raises(ValueError, match="has a tensor extra that vggish has no place for"):
        load(saved({"extra": np.ones(1, np.float32)}))
    with pytest.raises(ValueError, match="bias in .* is not finite"):
        load(saved({"bias": np.full(2, np.nan, np.float32)}))
    with pytest.raises(ValueError, match="has no tensor kernel, which vggish needs"):
        metric_weights.check({"bias": np.zeros(2)}, TINY, "vggish", "it")
    with pytest.raises(ValueError, match="vggish has 9 numbers, but .* has 8"):
        load(saved({}), Network(module=TINY.module, inputs=TINY.inputs, num_numbers=9))
    with pytest.raises(ValueError, match="open it with `clip_scorer.load`"):
        metric_weights.load(saved({}, FACTS | {"kind": "clip"}), "clip")
    with pytest.raises(ValueError, match="holds weights of i3d, expected vggish"):
        load(saved({}, FACTS | {"kind": "i3d"}))


def test_damaged_and_foreign_files_are_refused(tmp_path):
    whole = tmp_path / "whole.safetensors"
    metric_weights.save(whole, tensors(), FACTS)
    (tmp_path / "cut.safetensors").write_bytes(whole.read_bytes()[:-4])
    (tmp_path / "cut.npz").write_bytes(b"PK")
    np.savez(tmp_path / "foreign.npz", **tensors())
    np.savez(tmp_path / "pickled.npz", facts=np.array([{"kind": "vggish"}], object))
    for name in ("cut.safetensors", "cut.npz", "foreign.npz", "pickled.npz"):
        with pytest.raises(ValueError, match="was not written by tools/convert_metric_weights.py"):
            metric_weights.read(tmp_path / name, "vggish")
    with pytest.raises(ValueError, match="must end in .safetensors or .npz"):
        metric_weights.save(tmp_path / "a.pt", tensors(), FACTS)

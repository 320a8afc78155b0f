"""Hosts and replicas that differ are found and named."""

import dataclasses
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_lm
from jax.sharding import NamedSharding, PartitionSpec

from poet.train import agreement, lm, loop, partitioning
from poet.train.partitioning import MeshConfig


@pytest.fixture(scope="module")
def mesh():
    return partitioning.make_mesh(MeshConfig(replica=2, fsdp=2))


def on(mesh, value, spec, flipped=None):
    """The value on the mesh; device `flipped` has the last bit of its first number turned."""
    sharding = NamedSharding(mesh, PartitionSpec(*spec))
    parts = []
    for number, (device, at) in enumerate(sharding.devices_indices_map(value.shape).items()):
        part = np.array(value[at])
        if number == flipped:
            part.reshape(-1).view(f"u{part.itemsize}")[0] ^= 1
        parts.append(jax.device_put(part, device))
    return jax.make_array_from_single_device_arrays(value.shape, sharding, parts)


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.int32])
@pytest.mark.parametrize("spec", [(), ("fsdp",), (None, "fsdp")])
def test_one_flipped_bit_of_one_copy_is_found(mesh, dtype, spec):
    value = np.arange(-12, 12).reshape(4, 6).astype(dtype)
    whole = {"layers": {"kernel": on(mesh, value, spec)}, "scale": on(mesh, value[0], ())}
    agreement.check_replicas(whole)
    broken = {**whole, "layers": {"kernel": on(mesh, value, spec, flipped=3)}}
    with pytest.raises(agreement.DisagreementError, match="Copies of 1 of 2 .* layers/kernel"):
        agreement.check_replicas(broken)


def test_what_has_no_copies_cannot_differ(mesh):
    value = np.arange(16.0, dtype=np.float32).reshape(4, 4)
    agreement.check_replicas({"w": on(mesh, value, (("replica", "fsdp"),), flipped=1)})
    agreement.check_replicas({"w": jnp.ones(3)})


def test_facts_of_hosts_are_compared_by_name():
    one, other = agreement._digest("one"), agreement._digest("other")
    same = np.stack([np.stack([one, other])] * 3)
    agreement.check_digests(["config", "dataset"], same)
    same[2, 1] = one
    with pytest.raises(agreement.DisagreementError, match=r"0: dataset \(process 2\)\. Give every"):
        agreement.check_digests(["config", "dataset"], same)


@pytest.fixture
def together(monkeypatch):
    """Compares the facts of two processes, which two threads play; what both raise, or None."""
    barrier, number, slots = threading.Barrier(2, timeout=60), threading.local(), [None, None]

    def gather(mine):
        slots[number.own] = mine
        barrier.wait()
        found = np.stack(slots)
        barrier.wait()
        return found

    def check(own, facts):
        number.own = own
        try:
            agreement.check_hosts(facts)
        except agreement.DisagreementError as error:
            return str(error)

    def compare(*facts):
        with ThreadPoolExecutor(2) as pool:
            first, second = pool.map(check, (0, 1), facts)
        assert first == second
        return first

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(agreement, "gather", gather)
    return compare


def facts_of(folder, **changes):
    """What an LMRun says to other hosts."""
    run = lm.LMRun(
        data_dir="here",
        mixture_or_task_name="poet_unconditional",
        model=tiny_lm.TRAINED,
        loop=loop.LoopConfig(model_dir="out", num_steps=6),
        batch_tokens=300,
        task_modules=("tasks.paper", str(folder / "mine.py")),
    )
    run = dataclasses.replace(run, **changes)
    return lm._of_all_hosts(run, {"seed": 1, "data_dir": run.data_dir})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"updates": lm.Updates(ema_decay=0.99)},
            r"0: updates \(process 1\)\. updates.ema_decay is 0.0 on process 0 and 0.99 on pro",
        ),
        ({"mesh": MeshConfig(fsdp=2)}, r"mesh \(process 1\)\. mesh.fsdp is -?\d+ on"),
        ({"evaluation": lm.Evaluation(num_examples=3)}, "evaluation.num_examples is "),
        ({"init_from": "there"}, "init_from is  on process 0 and there on process 1"),
        ({"adapters": lm.LoraConfig(), "init_from": "x"}, "differ from process 0: adapters .*init"),
        ({"text_weights": "there"}, "text_weights is "),
    ],
)
def test_one_setting_of_one_host_is_found_and_named(together, tmp_path, changes, says):
    (tmp_path / "mine.py").write_text("a = 1")
    assert re.search(says, together(facts_of(tmp_path), facts_of(tmp_path, **changes)))


def test_task_files_count_by_what_is_in_them_and_data_by_its_fingerprint(together, tmp_path):
    for name, text in (("a", "a = 1"), ("b", "a = 1"), ("c", "a = 2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.py").write_text(text)
    a, b, c = (facts_of(tmp_path / name, data_dir=name) for name in "abc")
    assert together(a, b) is None
    assert "differ from process 0: task files (process 1)." in together(a, c)


def test_settings_are_described_without_addresses_and_order():
    class Odd:
        pass

    one, other = agreement.describe(Odd()), agreement.describe(Odd())
    assert one == other and one["is"].endswith("Odd") and len(one["file"]) == 64
    assert agreement.describe({"b": {2, 1}, "a": (1, None)}) == {"b": ["1", "2"], "a": [1, None]}
    assert agreement.describe(jnp.bfloat16) != agreement.describe(jnp.float32)
    assert agreement.describe(np.dtype("int8")) != agreement.describe(np.dtype("int16"))


def test_a_single_process_agrees_with_itself():
    agreement.check_hosts({"config": object})
    assert len(agreement.code_fingerprint()) == 64


def test_other_code_is_said_even_where_it_has_other_facts(together, monkeypatch):
    numbers = iter("ab")
    monkeypatch.setattr(agreement, "code_fingerprint", lambda: next(numbers))
    said = together({"seed": 1}, {"seed": 1, "of a newer version": 2})
    assert "code (process 1)" in said


def test_one_host_that_asks_for_equal_bits_is_said(together, monkeypatch):
    flags = iter([True, False])
    monkeypatch.setattr(agreement, "_asks_for_equal_bits", lambda: next(flags))
    assert "deterministic operations is " in together({}, {})

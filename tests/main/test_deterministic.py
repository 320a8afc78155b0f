"""--deterministic: XLA has its flags when the backend starts, and a restart without it is told."""

import subprocess
import sys
from types import SimpleNamespace

import gin
import jax
import jax.numpy as jnp
import jaxlib
import pytest
import real_processes

from poet.main import commands, deterministic, devices, hosts, train, train_tokenizer
from poet.train import lm, state, tokenizer_run
from poet.train.checkpoint import Checkpoints

OPERATIONS = "--xla_gpu_deterministic_ops=true --xla_gpu_exclude_nondeterministic_ops=true"

# Training is replaced by one product, which a backend compiles; XLA writes down how.
CHILD = """
import sys
import jax
from jax._src import xla_bridge
from poet.main import deterministic, train
from poet.train import lm

def product(run, *more):
    jax.jit(lambda x: x @ x)(jax.numpy.ones((2, 2))).block_until_ready()
    return type("State", (), {"step": 0})

def with_flags(*words):
    assert not xla_bridge.backends_are_initialized()
    return set_flags(*words)

lm.train, set_flags = product, deterministic.with_flags
deterministic.with_flags = with_flags
sys.exit(train.main(sys.argv[1:]))
"""

RUN = ["--gin_file=gin/runs/tiny.gin", "--gin.MODEL_DIR={}", "--gin.DATA_DIR={}"]
TOKENIZER = ["--gin_file=gin/tokenizers/visual_tiny.gin", "--media=x", "--out={}"]


def started(folder, xla_flags, *more):
    """A process of `poet train` that only compiles a product, and what it said."""
    words = [word.format(folder) for word in RUN]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *words, *more],
        cwd=real_processes.ROOT,
        env=real_processes.settings(1) | {"XLA_FLAGS": xla_flags},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_the_backend_starts_with_the_flags_and_those_of_the_user(tmp_path):
    """A joined process, whose MODEL_DIR has a space; XLA refuses flags that it does not know."""
    folder, dump = tmp_path / "a model", tmp_path / "dump"
    joined = [f"--coordinator_address={real_processes.free_address()}"]
    joined += ["--process_count=1", "--process_index=0"]
    code, said = started(folder, f"--xla_dump_to={dump}", "--deterministic", *joined)
    assert code == 0, said
    kept = folder / "autotuning" / f"jaxlib_{jaxlib.__version__}"
    assert kept.is_dir() and f"their kernels is kept in {kept}" in said
    (options,) = dump.glob("*jit__lambda*.debug_options")
    options = options.read_text()
    for line in (
        "xla_gpu_deterministic_ops: true",
        "xla_gpu_exclude_nondeterministic_ops: true",
        f'xla_gpu_per_fusion_autotune_cache_dir: "{kept}"',
    ):
        assert line in options


ACCEPTS = """
import os, sys
from poet.main import deterministic
os.environ["XLA_FLAGS"] = deterministic.with_flags("", sys.argv[1])
import jax
print(jax.jit(lambda x: x + 1)(1.0))
"""


def test_the_installed_jaxlib_knows_the_flags(tmp_path):
    """XLA aborts the process at one that it does not know."""
    words = [sys.executable, "-c", ACCEPTS, str(tmp_path / "a folder")]
    done = real_processes.start(words)
    said = done.communicate(timeout=120)[0]
    assert done.returncode == 0 and said.strip().endswith("2.0"), said


@pytest.mark.parametrize(("command", "words"), [(train, RUN), (train_tokenizer, TOKENIZER)])
def test_processes_join_then_come_the_flags_then_the_devices(command, words, tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(hosts, "join", lambda flags: order.append("join"))
    monkeypatch.setattr(deterministic, "prepare", lambda *words: order.append(words) or "")
    monkeypatch.setattr(devices, "check_accelerator", lambda: order.append("devices"))
    monkeypatch.setattr(lm, "train", lambda *words: SimpleNamespace(step=0))
    monkeypatch.setattr(tokenizer_run, "train", lambda *words: "0")
    assert command.main([word.format(tmp_path) for word in words] + ["--deterministic"]) == 0
    gin.clear_config()
    folder = tmp_path / "train" if command is train_tokenizer else tmp_path
    (asked, where) = order[1]
    assert order[::2] == ["join", "devices"] and asked and str(where) == str(folder)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", f'{OPERATIONS} --xla_gpu_per_fusion_autotune_cache_dir="/a b"'),
        (
            " --xla_dump_to=/x --xla_gpu_deterministic_ops",
            "--xla_dump_to=/x --xla_gpu_deterministic_ops"
            " --xla_gpu_exclude_nondeterministic_ops=true"
            ' --xla_gpu_per_fusion_autotune_cache_dir="/a b"',
        ),
        (
            f"--xla_gpu_per_fusion_autotune_cache_dir='/my folder' {OPERATIONS}",
            f"--xla_gpu_per_fusion_autotune_cache_dir='/my folder' {OPERATIONS}",
        ),
        (
            "--xla_gpu_load_autotune_results_from=/x.pb",
            f"--xla_gpu_load_autotune_results_from=/x.pb {OPERATIONS}",
        ),
    ],
)
def test_what_the_user_set_stays(given, expected):
    assert deterministic.with_flags(given, "/a b") == expected


@pytest.mark.parametrize(
    ("given", "folder", "says"),
    [
        ("--xla_gpu_deterministic_ops=false", "/a", r"ops=false; leave out the one or the other"),
        ("--xla_gpu_exclude_nondeterministic_ops=0", "/a", "nondeterministic_ops=0; leave out"),
        ("flags.txt", "/a", "names a file .flags.txt."),
        ("", "gs://bucket/model/autotuning", "cache_dir=FOLDER to XLA_FLAGS, a folder that"),
    ],
)
def test_what_cannot_be_is_refused(given, folder, says):
    with pytest.raises(commands.UserError, match=says):
        deterministic.with_flags(given, folder)


def test_a_remote_run_keeps_its_kernels_where_the_user_says():
    mine = "--xla_gpu_per_fusion_autotune_cache_dir=/mine"
    assert deterministic.with_flags(mine, "gs://bucket/model") == f"{mine} {OPERATIONS}"


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """MODEL_DIR, and a function that gives it a checkpoint."""
    monkeypatch.setenv("XLA_FLAGS", "")
    before = jax.config.jax_persistent_cache_enable_xla_caches

    def save():
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(state.create({"w": jnp.ones(2)}, {}), {})

    yield tmp_path, save
    jax.config.update("jax_persistent_cache_enable_xla_caches", before)


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        (True, True, ""),
        (False, False, ""),
        (True, False, "started with --deterministic and goes on without it"),
        (False, True, "started without --deterministic and goes on with it"),
    ],
)
def test_a_run_that_goes_on_the_other_way_is_told(saved, caplog, first, second, says):
    folder, save = saved
    # One that ended before its first checkpoint has no say.
    deterministic.prepare(not first, folder)
    deterministic.prepare(first, folder)
    assert not caplog.text
    save()
    deterministic.prepare(second, folder)
    assert says in caplog.text and bool(caplog.text) == bool(says)

"""Settings of every test: four CPU devices, no silent broadcasting, fixed seeds.

Nothing of poet may be imported here at the top: the jaxtyping plugin checks shapes only in modules
that are imported after it has started.
"""

import gc
import os
import pathlib
import random

# Before jax is imported anywhere; a user may still ask for another platform.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# TensorFlow's banner and its oneDNN notice would hide real messages of failing tests.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
# Most programs of the tests run once or twice: compiled fast, they are done sooner than compiled
# well. Loss and gradients of the tiny language model: 10.5 s of processor time to compile as usual,
# 4.6 without optimization, 1.5 with the older emitters too, 1.0 on one thread.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
    " --xla_cpu_parallel_codegen_split_count=1",
)

import jax
import numpy as np
import pytest

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_configure(config):
    """Keeps compiled programs beside pytest's own cache: a second run compiles almost nothing.

    Measured on the layers' tests: 29 s of processor time the first time, 7 s the second.
    `pytest --cache-clear` empties it.
    """
    if getattr(config, "cache", None):
        jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("jax")))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def pytest_collection_finish(session):
    """Lets the collector pass over what the imports made, and look less often.

    Millions of objects of TensorFlow, JAX and the tests themselves live to the end; going through
    them again and again was 9 % of the processor time of two files of tests.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)


# A compiled program holds about 25 memory maps of its process; beyond the kernel's limit (65,530 by
# default) LLVM aborts in the middle of a later test.
_MANY_MAPS = 20_000


@pytest.fixture(autouse=True, scope="module")
def few_programs():
    """Drops the programs of earlier files in time; the next ones come from the cache on disk."""
    yield
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > _MANY_MAPS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(autouse=True)
def fixed_seeds():
    """A test that forgets to seed is still the same test each time."""
    random.seed(0)
    np.random.seed(0)


@pytest.fixture
def key():
    """A JAX key for tests that do not care which."""
    return jax.random.key(0)

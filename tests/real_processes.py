"""Processes of their own: several that jax.distributed joins, or one with eight devices."""

import inspect
import json
import os
import pathlib
import socket
import subprocess
import sys

import jax

ROOT = pathlib.Path(__file__).parents[1]


def settings(num_devices):
    """Environment of a process with so many CPU devices, which finds the tests' modules."""
    tests = ROOT / "tests"
    folders = [ROOT, tests, *(path for path in tests.iterdir() if path.is_dir())]
    # The cache of the tests makes the second and third compile of a program cheap.
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(num_devices),
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir or "",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": os.pathsep.join(map(str, folders)),
    }


def free_address():
    """HOST:PORT that nothing listens at."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return f"localhost:{listener.getsockname()[1]}"


def start(command, num_devices=1):
    """A running process; what it says is kept for `communicate`."""
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=settings(num_devices),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run_two(code, *args, num_devices=1, timeout_s=300):
    """What each of two processes says that run code with (address, own number, *args)."""
    address = free_address()
    processes = [
        start([sys.executable, "-c", code, address, str(number), *args], num_devices)
        for number in range(2)
    ]
    said = [process.communicate(timeout=timeout_s)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    return said


def on_eight_devices(function, *args):
    """What a function of a test module returns in a process that has eight devices; JSON all."""
    call = (
        "import importlib, json, sys; module, name, args = sys.argv[1:];"
        " function = getattr(importlib.import_module(module), name);"
        " print(json.dumps(function(*json.loads(args))))"
    )
    module = inspect.getmodulename(inspect.getfile(function))
    words = [sys.executable, "-c", call, module, function.__name__, json.dumps(args)]
    done = subprocess.run(words, cwd=ROOT, env=settings(8), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])

"""What a GPU or TPU worker runs needs only jax, flax, optax, orbax, numpy, gin and absl."""

import ast
import json
import pathlib
import re
import subprocess
import sys
from importlib import metadata

import pytest
from packaging.requirements import Requirement

ROOT = pathlib.Path(__file__).parents[1]
CORE_DISTRIBUTIONS = ["jax", "flax", "optax", "orbax-checkpoint", "numpy", "gin-config", "absl-py"]
CORE = [
    "poet/typing.py",
    "poet/tokens",
    "poet/layers",
    "poet/tokenizers",
    "poet/models",
    "poet/sample",
    "poet/train/step.py",
    "poet/train/partitioning.py",
]
# Imported only inside the function that needs it, and only by these rooms (and tasks/, tools/).
HEAVY = {
    "tensorflow",
    "tensorflow_text",
    "tensorflow_datasets",
    "seqio",
    "apache_beam",
    "clu",
    "keras",
    "tensorboard",
}
HEAVY_ROOMS = {"data", "main"}
# Never at the top of a file either, but not bound to a room.
LAZY = HEAVY | {"torch", "transformers", "libtpu", "qwix"}

IMPORT_ALL = """
import importlib, json, sys

names, allowed = json.loads(sys.argv[1]), set(json.loads(sys.argv[2]))


class Gate:
    # Answers as an environment does in which nothing else is installed.
    def __init__(self, finders):
        self.finders = finders

    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in allowed and not top.startswith("_sysconfigdata"):
            return None
        specs = (finder.find_spec(name, path, target) for finder in self.finders)
        return next((spec for spec in specs if spec), None)


sys.meta_path[:] = [Gate(list(sys.meta_path))]
failed = {}
for name in names:
    try:
        importlib.import_module(name)
    except Exception as error:
        failed[name] = f"{type(error).__name__}: {error}"
print("FAILED " + json.dumps(failed))
"""


def closure(names):
    """Returns the distributions that come with `names`, theirs included, as normalized names."""
    seen, waiting = set(), [Requirement(name) for name in names]
    while waiting:
        wanted = waiting.pop()
        name = _normal(wanted.name)
        extras = {"", *wanted.extras}
        new = {(name, extra) for extra in extras} - seen
        if not new:
            continue
        seen |= new
        for line in metadata.requires(wanted.name) or []:
            needed = Requirement(line)
            marker = needed.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(needed)
    return {name for name, _ in seen}


def allowed_modules():
    """Returns the top-level modules of an environment with only the core's distributions."""
    allowed = {_normal(name) for name in closure(CORE_DISTRIBUTIONS)}
    modules = metadata.packages_distributions().items()
    installed = {module for module, owners in modules if {_normal(o) for o in owners} & allowed}
    return sorted(installed | set(sys.stdlib_module_names) | {"poet"})


def _normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def core_modules():
    """Returns the dotted names of every module of the core that exists."""
    paths = []
    for entry in CORE:
        path = ROOT / entry
        paths += sorted(path.rglob("*.py")) if path.is_dir() else [path] if path.exists() else []
    return [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in paths
    ]


def import_behind_gate(names, allowed, folder=ROOT):
    """Returns module -> error of those `names` that need more than `allowed` modules."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, json.dumps(names), json.dumps(allowed)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("FAILED ")]
    assert lines, done.stderr
    return json.loads(lines[-1].removeprefix("FAILED "))


def test_core_imports_with_the_core_environment_only():
    failed = import_behind_gate(core_modules(), allowed_modules())
    assert not failed, "\n".join(f"{name}: {error}" for name, error in failed.items())


def test_the_gate_stops_what_is_not_core(tmp_path):
    (tmp_path / "needs_seqio.py").write_text("import seqio\n")
    (tmp_path / "needs_jaxtyping.py").write_text("from jaxtyping import Float\n")
    (tmp_path / "needs_numpy.py").write_text("import numpy\n")
    names = ["needs_seqio", "needs_jaxtyping", "needs_numpy"]
    failed = import_behind_gate(names, [*allowed_modules(), *names], tmp_path)
    assert sorted(failed) == ["needs_jaxtyping", "needs_seqio"]


def test_core_environment_is_small():
    allowed = allowed_modules()
    assert {"jax", "flax", "optax", "orbax", "numpy", "gin", "absl", "etils"} <= set(allowed)
    assert not (HEAVY | {"jaxtyping", "av", "grain", "array_record"}) & set(allowed)


def complaints(path, source):
    """Returns the heavy imports of a file that lie at its top or in the wrong room."""
    parts = pathlib.PurePosixPath(path).parts
    tree = ast.parse(source)
    is_open = parts[0] != "poet" or parts[1] in HEAVY_ROOMS
    wrong = [
        f"{path}:{node.lineno}: imports {module} outside {sorted(HEAVY_ROOMS)}"
        for node in ast.walk(tree)
        for module in _top_levels(node)
        if module in HEAVY and not is_open
    ]
    return wrong + [
        f"{path}:{node.lineno}: imports {module} at the top, not in the function that needs it"
        for node in _outside_functions(tree)
        for module in _top_levels(node)
        if module in LAZY
    ]


def _top_levels(node):
    if isinstance(node, ast.Import):
        return [alias.name.partition(".")[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [node.module.partition(".")[0]]
    return []


def _outside_functions(node):
    """Yields the nodes that run on import: not those in functions or under TYPE_CHECKING."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _outside_functions(child)


def test_heavy_imports_stay_in_functions():
    wrong = [
        line
        for top in ("poet", "tasks")
        for path in sorted((ROOT / top).rglob("*.py"))
        for line in complaints(path.relative_to(ROOT).as_posix(), path.read_text())
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("path", "source", "words"),
    [
        ("poet/data/x.py", "import tensorflow as tf", "at the top"),
        ("poet/data/x.py", "try:\n    import seqio\nexcept ImportError: pass", "at the top"),
        ("poet/data/x.py", "class C:\n    from clu import metrics", "at the top"),
        ("tasks/x.py", "import seqio", "at the top"),
        ("poet/models/x.py", "def f():\n    import tensorflow", "outside"),
        ("poet/evals/x.py", "def f():\n    import torch\nimport torch", "at the top"),
    ],
)
def test_a_wrong_heavy_import_is_seen(path, source, words):
    assert [line for line in complaints(path, source) if words in line]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("poet/data/x.py", "def f():\n    import tensorflow_datasets"),
        ("tasks/x.py", "def f():\n    import seqio"),
        ("poet/evals/x.py", "def f():\n    import torch"),
        ("poet/data/x.py", "if TYPE_CHECKING:\n    import seqio"),
    ],
)
def test_a_right_heavy_import_is_left_alone(path, source):
    assert not complaints(path, source)

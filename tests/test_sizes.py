"""The stop column of CONTRIBUTING.md's size table. Raising a number here is a visible decision."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
MAX_FUNCTION_LINES = 80
MAX_FILE_LINES = 500
MAX_ARGUMENTS = 8
MAX_NESTING = 4
MAX_GIN_LINES = 100
MAX_GIN_INCLUDE_DEPTH = 3
# The one function that may be longer: the training loop reads best in one piece.
LONGER = {("poet/train/loop.py", "run"): 150}

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.Match)


def complaints(path, source):
    """Returns what is too big in one Python file; `path` is relative to the checkout."""
    wrong = []
    num_lines = len(source.splitlines())
    if num_lines > MAX_FILE_LINES:
        wrong.append(f"{path}: {num_lines} lines, at most {MAX_FILE_LINES}")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, FUNCTIONS):
            wrong += [f"{path}:{node.lineno}: {node.name} {word}" for word in _too_big(path, node)]
    return wrong


def _too_big(path, function):
    limit = LONGER.get((path, function.name), MAX_FUNCTION_LINES)
    num_lines = function.end_lineno - function.lineno + 1
    if num_lines > limit:
        yield f"has {num_lines} lines, at most {limit}"
    num_arguments = count_arguments(function)
    if num_arguments > MAX_ARGUMENTS:
        yield f"takes {num_arguments} arguments, at most {MAX_ARGUMENTS}"
    depth = nesting(function)
    if depth > MAX_NESTING:
        yield f"nests {depth} deep, at most {MAX_NESTING}"


def count_arguments(function):
    """Counts arguments without self and cls; *args and **kwargs count one each."""
    named = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    starred = [arg for arg in (function.args.vararg, function.args.kwarg) if arg]
    return len([arg for arg in named if arg.arg not in ("self", "cls")]) + len(starred)


def nesting(node):
    """Returns how deep blocks lie in blocks; elif adds nothing, inner functions start anew."""
    deepest = 0
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (*FUNCTIONS, ast.ClassDef, ast.Lambda)):
            continue
        is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and child in node.orelse
        is_elif = is_elif and len(node.orelse) == 1 and child.col_offset == node.col_offset
        step = 1 if isinstance(child, BLOCKS) and not is_elif else 0
        deepest = max(deepest, step + nesting(child))
    return deepest


def python_files():
    """Yields every Python file of the project with its path relative to the checkout."""
    for top in ("poet", "tasks", "tools", "tests"):
        for path in sorted((ROOT / top).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path.read_text()
    yield "setup.py", (ROOT / "setup.py").read_text()


def test_python_sizes():
    wrong = [line for path, source in python_files() for line in complaints(path, source)]
    assert not wrong, "\n".join(wrong)


def gin_include_depth(name, read):
    """Returns how many files deep `name` includes others (1: none); `read` gives a file's text."""
    included = re.findall(r"^\s*include\s+['\"]([^'\"]+)['\"]", read(name), re.MULTILINE)
    return 1 + max((gin_include_depth(other, read) for other in included), default=0)


def test_gin_sizes():
    wrong = []
    for path in sorted((ROOT / "gin").rglob("*.gin")):
        name = path.relative_to(ROOT).as_posix()
        num_lines = len(path.read_text().splitlines())
        if num_lines > MAX_GIN_LINES:
            wrong.append(f"{name}: {num_lines} lines, at most {MAX_GIN_LINES}")
        depth = gin_include_depth(name, lambda other: (ROOT / other).read_text())
        if depth > MAX_GIN_INCLUDE_DEPTH:
            wrong.append(f"{name}: includes go {depth} files deep, at most {MAX_GIN_INCLUDE_DEPTH}")
    assert not wrong, "\n".join(wrong)


NESTED = (
    "def f():\n" + "".join("    " * depth + "if x:\n" for depth in range(1, 6)) + "    " * 6 + "y"
)
ELIFS = "def f():\n    if x:\n        y\n" + "    elif x:\n        y\n" * 9


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("x = 1\n" * 501, "501 lines, at most 500"),
        ("def f():\n" + "    x\n" * 80, "has 81 lines"),
        ("def f(a, b, c, d, e, g, h, *, i, j): pass", "takes 9 arguments"),
        ("def f(a, b, c, d, e, g, h, *i, **j): pass", "takes 9 arguments"),
        (NESTED, "nests 5 deep"),
    ],
)
def test_what_is_too_big_is_seen(source, words):
    assert any(words in line for line in complaints("poet/x.py", source))


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("poet/x.py", "x = 1\n" * 500),
        ("poet/x.py", "def f():\n" + "    x\n" * 79),
        ("poet/train/loop.py", "def run():\n" + "    x\n" * 149),
        ("poet/x.py", "class C:\n    def f(self, a, b, c, d, e, g, h, i): pass"),
        ("poet/x.py", ELIFS),
    ],
)
def test_what_fits_is_left_alone(path, source):
    assert not complaints(path, source)


def test_include_depth_counts_files():
    files = {"a": "include 'b'", "b": 'include "c"\nx = 1', "c": "# include 'a'"}
    assert gin_include_depth("a", files.__getitem__) == 3

"""Imports only go down the floors of CONTRIBUTING.md, and nothing else is imported sideways."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FLOORS = [
    {"typing", "tokens"},
    {"layers", "tokenizers", "media", "shapes_world"},
    {"models", "data"},
    {"train", "sample"},
    {"evals", "demo", "plan"},
    {"main", "app", "testing"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
# Same floor, allowed all the same: (room, the room it may import).
# sample may load what train saved; train never imports sample, main hands it samplers.
BESIDES = {
    ("demo", "evals"),
    ("shapes_world", "media"),
    ("tokenizers", "layers"),
    ("sample", "train"),
}
# What tasks/ may import of poet; it also holds a user's own tasks, which should be short.
OPEN_TO_TASKS = {"typing", "tokens", "data"}
GIN_ROOM = "main"


def imported_modules(source):
    """Yields (line, dotted name) of every import, also inside functions; "." marks relative."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            if node.level:
                yield node.lineno, "." * node.level + (node.module or "")
            else:
                # `from poet import train` and `from poet.train import loop` both name the room.
                yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.Call) and _called_name(node) in ("import_module", "__import__"):
            if node.args and isinstance(node.args[0], ast.Constant):
                yield node.lineno, str(node.args[0].value)


def _called_name(call):
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def complaints(path, source):
    """Returns what is wrong with the imports of one file; `path` is relative to the checkout."""
    parts = pathlib.PurePosixPath(path).with_suffix("").parts
    wrong = []
    for line, module in imported_modules(source):
        reason = _reason(parts, module.split("."))
        if reason:
            wrong.append(f"{path}:{line}: {reason}")
    return wrong


def _reason(importer, imported):
    top, room = imported[0], imported[1] if len(imported) > 1 else ""
    if not top:
        return "relative import; write the whole name, poet.room.module"
    if top in ("tools", "tests"):
        return f"imports {top}/, which nothing else may import"
    if importer[0] == "tasks":
        if top == "poet" and room not in OPEN_TO_TASKS:
            return f"tasks may import only {sorted(OPEN_TO_TASKS)} of poet, not {room}"
        return "gin is imported only in poet/main" if top == "gin" else None
    if importer[0] != "poet" or len(importer) == 2 and importer[1] == "__init__":
        return None
    if top == "gin" and importer[1] != GIN_ROOM:
        return "gin is imported only in poet/main"
    if top == "tasks" and FLOOR_OF.get(importer[1], 0) < FLOOR_OF["evals"]:
        return "only demo, evals, main and app may import tasks"
    return _floor_reason(importer[1], room) if top == "poet" else None


def _floor_reason(room, other):
    if room not in FLOOR_OF:
        return f"{room} has no floor; give it one in FLOORS and in CONTRIBUTING.md"
    if other == room or other not in FLOOR_OF or (room, other) in BESIDES:
        return None  # `from poet import __version__` and the like name no room.
    if FLOOR_OF[other] < FLOOR_OF[room]:
        return None
    return f"{room} (floor {FLOOR_OF[room]}) imports {other} (floor {FLOOR_OF[other]})"


def test_imports_only_go_down():
    files = [path for top in ("poet", "tasks") for path in sorted((ROOT / top).rglob("*.py"))]
    wrong = [
        line
        for path in files
        for line in complaints(path.relative_to(ROOT).as_posix(), path.read_text())
    ]
    assert not wrong, "\n".join(wrong)


def test_gin_folder_is_no_package():
    # It would shadow the gin library for everyone who works in the checkout.
    assert not list((ROOT / "gin").rglob("*.py"))


@pytest.mark.parametrize(
    ("path", "source", "words"),
    [
        ("poet/tokens/clip.py", "from poet.train import loop", "tokens (floor 0) imports train"),
        ("poet/tokens/clip.py", "from poet import train", "tokens (floor 0) imports train"),
        (
            "poet/layers/a.py",
            "def f():\n    import poet.media.video",
            "layers (floor 1) imports media",
        ),
        ("poet/data/a.py", "import_module('poet.models.x')", "data (floor 2) imports models"),
        ("poet/media/a.py", "from poet.shapes_world import world", "imports shapes_world"),
        ("poet/evals/a.py", "from poet.demo import report", "evals (floor 4) imports demo"),
        ("poet/train/a.py", "from poet.sample import decode", "train (floor 3) imports sample"),
        ("poet/train/a.py", "from . import step", "relative import"),
        ("poet/train/a.py", "import gin", "only in poet/main"),
        ("poet/train/a.py", "from tools import x", "nothing else may import"),
        ("poet/train/a.py", "import tasks.paper", "may import tasks"),
        ("poet/cellar/a.py", "from poet.tokens import clip", "has no floor"),
        ("tasks/a.py", "from poet.models import prefix_lm", "tasks may import only"),
        ("tasks/a.py", "import gin", "only in poet/main"),
    ],
)
def test_a_wrong_import_is_seen(path, source, words):
    assert [line for line in complaints(path, source) if words in line]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("poet/demo/a.py", "from poet.evals import shapes_scores"),
        ("poet/shapes_world/a.py", "from poet.media import write"),
        ("poet/tokenizers/a.py", "from poet.layers import conv"),
        ("poet/main/a.py", "import gin\nimport tasks\nfrom poet.train import loop"),
        (
            "poet/train/a.py",
            "from poet.train.state import TrainState\nfrom poet import __version__",
        ),
        ("tasks/a.py", "from poet.data import objectives\nfrom poet.tokens import tasks"),
    ],
)
def test_a_right_import_is_left_alone(path, source):
    assert not complaints(path, source)

"""The `poet` command: finds the command's file and hands over.

poet <command> [flags]        the same as python -m poet.main.<command>
poet --help                   lists the commands
"""

import ast
import importlib
import importlib.metadata
import pathlib
import sys

# The order of a first visit; commands not named here follow by name.
_ORDER = (
    "demo",
    "render",
    "train_tokenizer",
    "prepare",
    "train",
    "plan",
    "generate",
    "evaluate",
    "inspect",
)


def commands() -> dict[str, str]:
    """Returns command -> one line, from the files of this folder that define `main`."""
    found = {}
    for path in pathlib.Path(__file__).parent.glob("*.py"):
        if path.stem in ("cli", "__init__", "__main__"):
            continue
        tree = ast.parse(path.read_text())
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body):
            words = (ast.get_docstring(tree) or "").strip().splitlines() or [""]
            found[path.stem] = words[0]

    def place(name):
        return (_ORDER.index(name) if name in _ORDER else len(_ORDER), name)

    return {name.replace("_", "-"): found[name] for name in sorted(found, key=place)}


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_help())
        return 0 if argv else 2
    if argv[0] == "--version":
        print(_version())
        return 0
    name = argv[0].replace("_", "-")
    if name not in commands():
        print(f"There is no command {argv[0]!r}.\n\n{_help()}", file=sys.stderr)
        return 2
    module = importlib.import_module(f"poet.main.{name.replace('-', '_')}")
    return module.main(argv[1:]) or 0


def _help() -> str:
    rows = commands()
    width = max(map(len, rows), default=0)
    lines = [f"  {name:<{width}}  {line}" for name, line in rows.items()]
    return (
        "Poet: text in, video with sound out.\n\nusage: poet <command> [flags]\n\n"
        + "\n".join(lines)
        + "\n\n`poet <command> --help` says what a command takes."
    )


def _version() -> str:
    try:
        return f"poet {importlib.metadata.version('poet')}"
    except importlib.metadata.PackageNotFoundError:
        return "poet (not installed, run from a checkout)"


if __name__ == "__main__":
    sys.exit(main())

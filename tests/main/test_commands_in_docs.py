"""Every command that the pages and the heads of gin files show is one that would be taken.

Nothing runs: a command stops where its words have been read, and its gin files are read apart.
"""

import argparse
import dataclasses
import functools
import importlib
import pathlib
import re
import shlex

import gin
import pytest

from poet.main import cli, commands, gin_files

ROOT = pathlib.Path(__file__).parents[2]
# Not docs/LOG.md: what was typed on its day.
PAGES = [
    path for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]) if path.stem != "LOG"
]
GIN_FILES = sorted(ROOT.glob("gin/**/*.gin"))
# Value of a word that stands for one's own, such as N, DIR, HOST:PORT or RUN.gin.
PLACEHOLDER = r"[A-Z][A-Z_]*(?:[:/.][A-Z]+|\.gin)?"
# What the launch recipes bind, or a cluster's MODEL_DIR and DATA_DIR.
FOLDERS = ["MODEL_DIR = 'x'", "DATA_DIR = 'x'"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shown:
    """A command line, cut into words.

    Attributes:
      words: From `poet` or `python` on.
      is_whole: Whether nothing was left out; else what is required may be missing.
      bindings: Of gin, added by a script around it.
    """

    words: tuple[str, ...]
    is_whole: bool = True
    bindings: tuple[str, ...] = ()


class Taken(Exception):
    """The words of a command were read."""


class Refused(Exception):
    """argparse does not take the words."""


def block_lines(text):
    """Yields the lines of fenced and of indented blocks, continued ones joined."""
    kept, is_fenced = [], False
    for line in text.splitlines():
        if line.strip().startswith("```"):
            is_fenced = not is_fenced
        elif is_fenced or line.startswith("    "):
            kept.append(line.strip())
        else:
            kept.append("")
    yield from "\n".join(kept).replace("\\\n", " ").splitlines()


def shown_on(page):
    """Yields what a page shows in blocks, and in the text between backquotes, as a part."""
    text = page.read_text()
    for line in block_lines(text):
        yield from shown_by(line)
    for line in re.findall(r"`((?:poet|python) [^`<|]+)`", text):
        yield from shown_by(f"{' '.join(line.split())} ...")


def shown_in_head(path):
    """Yields the commands of a gin file's comments."""
    head = [line[1:] for line in path.read_text().splitlines() if line.startswith("#")]
    for line in "\n".join(head).replace("\\\n", " ").splitlines():
        if line.startswith("   "):
            yield from shown_by(line)


def shown_by(line):
    """Yields the commands of Poet in one line, a launch script's as the `poet train` it runs."""
    line = re.split(r" \| | > |&&|;", line.replace("[", " ").replace("]", " "))[0]
    try:
        words = shlex.split(line, comments=True)
    except ValueError:  # an apostrophe of prose
        return
    while words and re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    if not words:
        return
    own = {f"{folder}{name}": name for name in ("poet", "python") for folder in ("", ".venv/bin/")}
    if words[0] in own and words[1:]:
        yield from cut([own[words[0]], *words[1:]])
    elif words[0].endswith("local.sh"):
        yield from cut(["poet", *words[2:]])
    for name in ("slurm.sbatch", "xpk.sh", "gke.py"):
        script = [place for place, word in enumerate(words) if word == f"tools/launch/{name}"]
        if script:
            rest = words[script[0] + 1 :]
            rest = rest[rest.index("--") + 1 :] if name == "gke.py" else rest
            kept = [word for word in rest if word != "--run"]
            yield from cut(["poet", "train", *kept], FOLDERS)


def cut(words, bindings=()):
    """Yields the command without what stands for more (`...`) and what is said behind it."""
    if words[:2] == ["python", "-m"] and words[2:]:
        words = ["python", f"{words[2].replace('.', '/')}.py", *words[3:]]
    if words[0] == "python" and not words[1].startswith("tools/"):
        return
    kept, is_prose = [], False
    for word in words:
        if word == "..." or word.startswith("("):
            is_prose = True
        elif word.startswith("--"):
            is_prose = False
        if not is_prose:
            kept.append(word)
    yield Shown(words=tuple(kept), is_whole="..." not in words, bindings=tuple(bindings))


known_commands = functools.cache(cli.commands)


def main_of(words):
    """Returns (main, its arguments); AssertionError for a command or tool that is not there."""
    if words[0] == "poet":
        name = words[1].replace("_", "-")
        assert name in known_commands(), f"there is no command {words[1]}"
        module = importlib.import_module(f"poet.main.{name.replace('-', '_')}")
        return module.main, words[2:]
    assert (ROOT / words[1]).is_file(), f"there is no {words[1]}"
    module = importlib.import_module(words[1].removesuffix(".py").replace("/", "."))
    return module.main, words[2:]


@pytest.fixture
def check(monkeypatch):
    """Returns a function that refuses a command that would not be taken."""
    read = argparse.ArgumentParser.parse_args

    def parse_args(parser, words=None, namespace=None):
        parser.allow_abbrev = False
        try:
            read(parser, words, namespace)
        except Refused as refused:
            if "required" in str(refused):  # argparse says it first
                read_flags(parser, words)
            raise
        raise Taken

    def error(parser, message):
        raise Refused(message)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    monkeypatch.setattr(argparse.ArgumentParser, "error", error)
    monkeypatch.chdir(ROOT)
    yield check_one
    gin.clear_config()


def read_flags(parser, words):
    """Refuses flags that are not the parser's, whatever else is missing."""
    flags = [word.partition("=")[0] for word in words if re.fullmatch(r"--\w+(=\S*)?", word)]
    unknown = [flag for flag in flags if flag not in parser._option_string_actions]
    if unknown:
        raise Refused(f"unrecognized arguments: {' '.join(unknown)}")


def check_one(shown):
    main, words = main_of(shown.words)
    try:
        code = main(list(words))
    except Taken:
        code = None
    except Refused as refused:
        is_gap = "arguments are required" in str(refused) and not shown.is_whole
        if not is_gap and not re.search(f"invalid .*'{PLACEHOLDER}'", str(refused)):
            raise
        code = None
    assert code is None, "it ended before it read its words"
    if shown.words[-1] == "--gin_file":  # and then three dots
        return
    files, bindings, _ = commands.split_gin(words)
    if not any(re.fullmatch(PLACEHOLDER, name) for name in files):
        check_gin(shown, files, bindings)


def check_gin(shown, files, bindings):
    """Reads the gin files with the bindings, as the command would."""
    if not files:
        return
    files = (["gin/plan/paper.gin"] if shown.words[1] == "plan" else []) + files
    known = {name for path in files for name in macros_of(str(gin_files.find(path)))}
    for binding in bindings:
        name = binding.partition(" = ")[0]
        assert "." in name or name in known, f"no file of the command has a macro {name}"
    given = {binding.partition(" = ")[0] for binding in bindings}
    required = {name for path in files for name in macros_of(str(gin_files.find(path)), True)}
    left_to_others = required - given
    if shown.is_whole and shown.words[1] != "plan":
        left_to_others &= {binding.partition(" = ")[0] for binding in shown.bindings}
    commands.read_gin(files, [*bindings, *(f"{name} = 'x'" for name in left_to_others)])


@functools.cache
def macros_of(path, is_required=False):
    """Names that a gin file and those that it includes give a value, or ask one for."""
    text = pathlib.Path(path).read_text()
    line = r"^([A-Z]\w*) = %gin\.REQUIRED" if is_required else r"^([A-Z]\w*) ="
    found = set(re.findall(line, text, re.MULTILINE))
    for name in re.findall(r"^include '(.*)'", text, re.MULTILINE):
        found |= macros_of(str(gin_files.find(name)), is_required)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_commands_of_a_page_are_taken(page, check):
    check_all(shown_on(page), check)


def test_commands_in_heads_of_gin_files_are_taken(check):
    check_all([shown for path in GIN_FILES for shown in shown_in_head(path)], check)


def check_all(many, check):
    wrong = []
    for shown in dict.fromkeys(many):
        try:
            check(shown)
        except (AssertionError, Refused, ValueError) as error:
            wrong.append(f"{shlex.join(shown.words)}\n    {error}")
    assert not wrong, "\n".join(wrong)


def test_many_commands_are_found():
    """A page whose blocks are not seen would pass."""
    counts = {page.stem: len(list(shown_on(page))) for page in PAGES}
    assert counts["README"] > 15 and counts["launch"] >= 4 and counts["generate"] > 9
    assert sum(counts.values()) > 90
    assert sum(len(list(shown_in_head(path))) for path in GIN_FILES) > 20


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("poet trian --gin_file gin/runs/tiny.gin", "no command trian"),
        ("python tools/benchmark_all.py", "no tools/benchmark_all.py"),
        ("poet render --output out/clips", "unrecognized arguments: --output"),
        ("poet generate --tok out", "unrecognized arguments: --tok"),
        ("python tools/merge_lora.py --checkpoint out/8b_lora", "required: --out"),
        ("python tools/benchmark.py train --steps many", "invalid int value"),
        ("poet train --gin_file gin/runs/tinny.gin", "tinny.gin"),
        ("poet train --gin_file gin/runs/tiny.gin --gin.MODEL_DIR=x", "DATA_DIR has no value"),
        ("poet train --gin_file gin/runs/tiny.gin --gin.TRAIN_STEP=1 ...", "macro TRAIN_STEP"),
        ("poet train --gin_file gin/runs/tiny.gin --gin.LoopConfig.step=1 ...", "step"),
        ("poet train --gin_file gin/runs/tiny.gin --gin.LoopConfigs.seed=1 ...", "LoopConfigs"),
        ("poet prepare --overwrite", "unrecognized arguments: --overwrite"),
        ("tools/launch/local.sh 2 train --gin_file gin/runs/no.gin", "no.gin"),
        ("A=1 sbatch --nodes=4 tools/launch/slurm.sbatch --gin_file gin/runs/no.gin", "no.gin"),
    ],
)
def test_what_would_not_be_taken_is_found(line, says, check):
    (shown,) = shown_by(line)
    with pytest.raises((AssertionError, Refused, ValueError), match=re.escape(says)):
        check(shown)

"""The wheel holds what `poet` needs, the locks hold what setup.py asks for, files are clean."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).parents[1]
MINORS = (11, 12, 13)
FULL = ("core", "media", "records", "seqio", "beam", "quant", "dev")
MAKES = ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "EXTRAS", "ARGS")
REDUCED = ("core", "media", "records", "quant", "dev")


def test_a_make_target_runs_the_tests_of_each_mark():
    """And those that need an extra of setup.py install it, unless told to install more."""
    lines = (ROOT / "pyproject.toml").read_text()
    marks = re.findall(r'^    "(\w+): .*`make test-', lines, re.MULTILINE)
    assert marks == ["slow", "tpu"]
    for mark in marks:
        said = lines_of_make(f"test-{mark}")
        assert re.search(rf'pytest -m "?{mark}\b', said), said
        assert f'EXTRAS="{"plan" if mark == "tpu" else ""}"' in said
    assert 'EXTRAS="torch,plan"' in lines_of_make("test-tpu", "EXTRAS=torch,plan")


def lines_of_make(*words):
    """What make would run, whatever the make was told that runs these tests."""
    env = {name: value for name, value in os.environ.items() if name not in MAKES}
    asked = ["make", "--dry-run", *words]
    done = subprocess.run(asked, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture(scope="module")
def wheel_folder(tmp_path_factory):
    """A wheel built from a copy of the checkout, unpacked as an installer would."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    left_out = shutil.ignore_patterns(".*", "out", "build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, ignore=left_out)
    build = "from setuptools import build_meta; print(build_meta.build_wheel('..'))"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", build], cwd=source, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(folder / "installed")
    return folder / "installed"


def test_wheel_holds_every_module(wheel_folder):
    for top in ("poet", "tasks"):
        inside = {path.relative_to(wheel_folder) for path in (wheel_folder / top).rglob("*.py")}
        missing = {path.relative_to(ROOT) for path in (ROOT / top).rglob("*.py")} - inside
        assert not missing, f"{sorted(map(str, missing))}: does each folder have an __init__.py?"
    tops = {path.name for path in wheel_folder.iterdir() if not path.name.endswith(".dist-info")}
    assert tops == {"poet", "tasks"}


def test_wheel_holds_every_gin_file(wheel_folder):
    inside = wheel_folder / "poet" / "_gin"
    carried = {path.relative_to(inside).as_posix() for path in inside.rglob("*.gin")}
    assert carried == {path.relative_to(ROOT).as_posix() for path in ROOT.glob("gin/**/*.gin")}


def test_installed_package_finds_its_gin_files(wheel_folder, tmp_path):
    gin_files = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("gin/**/*.gin"))
    if not gin_files:
        pytest.skip("gin/ is empty")
    look = "import sys; from poet.main import gin_files; print(gin_files.find(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", look, gin_files[0]],
        cwd=tmp_path,
        env={"PYTHONPATH": str(wheel_folder), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert pathlib.Path(done.stdout.strip()).is_relative_to(wheel_folder)


def test_wheel_names_the_command(wheel_folder):
    (facts,) = wheel_folder.glob("*.dist-info")
    assert "poet = poet.main.cli:main" in (facts / "entry_points.txt").read_text()
    extras = re.findall(r"^Provides-Extra: (\S+)", (facts / "METADATA").read_text(), re.MULTILINE)
    assert {"cuda", "tpu", "torch", "plan", "quant", "dev"} <= set(extras)


def test_what_is_said_about_extras_works_in_a_clone():
    """No file sends to a package index for an extra of Poet, and the extras it names are there."""
    on_an_index = re.compile(r"poet" + r"\[(?:[a-z]+,?)+\]")
    text = (ROOT / "setup.py").read_text().partition("extras_require")[2]
    known = set(re.findall(r'^        "(\w+)": ', text, re.MULTILINE))
    for name, text in text_files():
        assert not on_an_index.search(text), f"{name}: write `make setup EXTRAS=NAME`"
        for extras in re.findall(r"\bEXTRAS=([a-z][a-z,]*)", text):
            assert set(extras.split(",")) <= known, f"{name} names the extras {extras}"


def requirements(name):
    """Returns the requirements of requirements/<name>.in."""
    lines = (ROOT / "requirements" / f"{name}.in").read_text().splitlines()
    kept = [line.partition("#")[0].strip() for line in lines]
    return [Requirement(line) for line in kept if line]


def lock_complaints(text, wanted):
    """Returns what a lock misses of the requirements `wanted`, and its lines that are no pins."""
    pins, wrong = {}, []
    for line in text.splitlines():
        found = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.+!]+)", line)
        if found:
            pins[canonicalize_name(found[1])] = found[2]
        else:
            wrong.append(f"{line!r} is not name==version")
    for requirement in wanted:
        version = pins.get(canonicalize_name(requirement.name))
        if version is None or not requirement.specifier.contains(version):
            wrong.append(f"{requirement} is asked for, {version} is locked")
    return wrong


@pytest.mark.parametrize("minor", MINORS)
@pytest.mark.parametrize(("suffix", "names"), [("", FULL), ("-reduced", REDUCED)])
def test_locks_hold_what_setup_asks_for(minor, suffix, names):
    text = (ROOT / "requirements" / f"py3{minor}{suffix}.txt").read_text()
    wanted = [requirement for name in names for requirement in requirements(name)]
    assert not lock_complaints(text, wanted)


def test_lock_complaints_are_seen():
    wanted = [Requirement("jax>=0.10.2,<0.12"), Requirement("orbax_checkpoint>=0.12")]
    assert not lock_complaints("jax==0.11.2\norbax-checkpoint==0.12.8", wanted)
    assert len(lock_complaints("jax==0.12.0", wanted)) == 2
    assert len(lock_complaints("--find-links x\njax==0.11.2\norbax-checkpoint==0.13", wanted)) == 1


def text_files():
    """Yields (name, text) of the files that git tracks or would track; all files without git."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    names = listed.stdout.splitlines() if listed.returncode == 0 else ["README.md", "setup.py"]
    for name in names:
        path = ROOT / name
        if path.is_file() and path.suffix not in (".npz", ".png", ".mp4", ".gif", ".wav"):
            yield name, path.read_text(errors="replace")


# Folders of one machine, hosts of one registry, and reminders without an issue and a reason.
MACHINE = re.compile(r"(?<![\w.~])/(?:root|home/\w+|Users/\w+|work|mnt)/")
REGISTRY = re.compile(r"--(?:extra-)?index-url[= ]|//[\w.-]+(?::\d+)?/(?:simple|pypi)\b")
REMINDER = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b(?!\(#\d+\): \S)")


def text_complaints(name, text):
    """Returns the lines of a file that should not be published."""
    patterns = {"a path of one machine": MACHINE, "a registry": REGISTRY}
    if name.endswith((".py", ".gin", ".sh", ".toml", "Makefile")):
        patterns["a reminder without (#issue): reason"] = REMINDER
    return [
        f"{name}:{number}: holds {what}"
        for number, line in enumerate(text.splitlines(), start=1)
        for what, pattern in patterns.items()
        if pattern.search(line)
    ]


def test_files_are_clean():
    wrong = [line for name, text in text_files() for line in text_complaints(name, text)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "line",
    [
        "open('/ro" + "ot/x')",
        "cd /ho" + "me/ann/poet",
        "pip install --index-" + "url https://a",
        "https://mirror.example/sim" + "ple/jax",
        "# TO" + "DO: later",
        "# TO" + "DO(#12):",
    ],
)
def test_unclean_lines_are_seen(line):
    assert text_complaints("poet/x.py", line)


@pytest.mark.parametrize(
    "line",
    [
        "# TO" + "DO(#12): flax 0.13 drops this",
        "gs://bucket/home/ann/x",
        "a /= root / work",
        "~/work/x",
    ],
)
def test_clean_lines_are_left_alone(line):
    assert not text_complaints("poet/x.py", line)

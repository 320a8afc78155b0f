"""The dispatcher and what all commands share."""

import errno
import re
import socket
import urllib.error

import pytest

from poet.main import cli, commands


def test_help_lists_every_command_with_a_line(capsys):
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert {"train", "train-tokenizer", "inspect", "render", "demo"} <= set(cli.commands())
    for name, line in cli.commands().items():
        assert line and name in out and line in out


def test_an_unknown_command_lists_the_known_ones(capsys):
    assert cli.main(["trian"]) == 2
    error = capsys.readouterr().err
    assert "There is no command 'trian'" in error and "train-tokenizer" in error
    assert cli.main([]) == 2


def test_commands_are_handed_their_arguments(monkeypatch):
    from poet.main import inspect

    seen = []
    monkeypatch.setattr(inspect, "main", lambda argv: seen.append(argv))
    assert cli.main(["inspect", "x", "--task", "y"]) == 0
    assert seen == [["x", "--task", "y"]]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("expected a, got b"), "error: expected a, got b."),
        (commands.UserError("Two\nlines."), "error: Two lines."),
        (FileNotFoundError(2, "No such file", "x.mp4"), "error: x.mp4: No such file. Check"),
        (OSError(28, "No space left", "x.mp4"), "error: x.mp4: No space left. Free space there"),
        (OSError(28, "No space left"), "error: No space left. Free space there"),
    ],
)
def test_errors_are_one_sentence_and_exit_code_2(error, words, capsys):
    def run(argv):
        raise error

    assert commands.run_command(run, []) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(words) and len(printed.splitlines()) == 1
    with pytest.raises(type(error)):
        commands.run_command(run, ["--debug"])


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(104, "reset"),
        TimeoutError("no answer"),
        socket.gaierror(-3, "Temporary failure in name resolution"),
        urllib.error.HTTPError("https://example.com", 503, "Unavailable", {}, None),
        OSError(errno.ESTALE, "Stale file handle"),
    ],
)
def test_a_connection_that_fails_may_be_tried_again(error, capsys):
    def run(argv):
        raise error

    assert commands.run_command(run, []) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_bugs_stay_loud():
    def run(argv):
        raise KeyError("oops")

    with pytest.raises(KeyError):
        commands.run_command(run, [])


def test_gin_flags_are_split():
    files, bindings, rest = commands.split_gin(
        ["--gin_file", "a.gin", "--gin_file=b.gin", "--gin.DIR=/tmp/x", "--gin.N=3", "--out", "o"]
    )
    assert files == ["a.gin", "b.gin"] and rest == ["--out", "o"]
    assert bindings == ["DIR = '/tmp/x'", "N = 3"]
    with pytest.raises(commands.UserError, match="--gin_file expects a file"):
        commands.split_gin(["--gin_file"])


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", "1e-3"), ("%X", "%X"), ("('a', 2)", "('a', 2)"), ("a b", "'a b'"), ("x", "'x'")],
)
def test_what_gin_cannot_read_is_text(text, value):
    assert commands.split_gin([f"--gin.A={text}"])[1] == [f"A = {value}"]


def test_unwritable_folders_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(commands.UserError, match="Cannot write to .*file is a file; choose"):
        commands.check_writable(tmp_path / "file" / "out")
    commands.check_writable(tmp_path / "new" / "deep")
    assert not (tmp_path / "new").exists()
    with pytest.raises(commands.UserError, match="Expected a local folder, got gs://a/b; .* copy"):
        commands.check_writable("gs://a/b")
    commands.check_writable("gs://a/b", may_be_remote=True)


@pytest.mark.parametrize(
    "words",
    [
        ["render"],
        ["train-tokenizer", "--gin_file=gin/tokenizers/visual_tiny.gin", "--media=x"],
        ["prepare", "--media=x"],
        ["generate", "--task=unconditional"],
        ["evaluate", "--clips=CLIPS"],
        ["demo"],
        ["train", "--gin_file=gin/runs/tiny.gin", "--gin.DATA_DIR=x"],
    ],
)
def test_every_command_asks_for_a_folder_it_can_write_to_first(words, tmp_path, capsys):
    """Before it reads, loads or trains anything."""
    (tmp_path / "file").write_text("")
    (tmp_path / "manifest.tsv").write_text("")
    words = [word.replace("CLIPS", str(tmp_path)) for word in words]
    flag = "--gin.MODEL_DIR" if words[0] == "train" else "--out"
    assert cli.main([*words, f"{flag}={tmp_path / 'file' / 'out'}"]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: Cannot write to") and len(printed.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--clips=DIR/none"], "Expected rendered clips .* make them with `poet render"),
        (["--clips=DIR", "--samples=DIR/none"], "found no .*none; make files with `poet generate"),
        (["--clips=DIR", "--size_px=30"], "height_px=30 is not a whole number of tokens"),
    ],
)
def test_evaluate_refuses_before_it_measures(words, says, tmp_path, capsys):
    (tmp_path / "manifest.tsv").write_text("")
    words = [word.replace("DIR", str(tmp_path)) for word in words]
    assert cli.main(["evaluate", *words, f"--out={tmp_path / 'out'}"]) == 2
    printed = capsys.readouterr().err
    assert re.search(says, printed) and len(printed.splitlines()) == 1

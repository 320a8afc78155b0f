"""What `poet inspect` says."""

import pytest

from poet.main import inspect


def test_a_plan_at_the_papers_sizes(capsys):
    assert inspect.main(["--task", "text_to_video"]) == 0
    out = capsys.readouterr().out
    assert "<bov_o>" in out and "1,282 carry loss" in out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "Nothing to inspect; give a path, or --task NAME."),
        (["nowhere"], "There is nothing at nowhere; expected a dataset"),
        (["--task", "sing"], "Unknown task 'sing'"),
    ],
)
def test_refusals(argv, words, capsys):
    assert inspect.main(argv) == 2
    assert words in capsys.readouterr().err


def test_a_manifest_is_counted(tmp_path, capsys):
    (tmp_path / "manifest.tsv").write_text(
        "file\tcaption\tsplit\na.mp4\thello\ttrain\nb.mp4\t\theld_out\n"
    )
    assert inspect.main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "a manifest of 2 clips" in out
    assert any(line.split() == ["train", "1", "1", "1", "a.mp4"] for line in out.splitlines())


def test_tables_are_aligned():
    assert inspect.render([("a", "b"), (1, "long")]).splitlines() == [
        "  a  b",
        "  -  ----",
        "  1  long",
    ]

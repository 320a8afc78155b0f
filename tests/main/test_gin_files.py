"""Gin files are found by path, by name, and from any working directory."""

import gin
import pytest

from poet.main import gin_files


@pytest.fixture
def own_files(tmp_path, monkeypatch):
    """A working directory with gin/runs/mine.gin, which includes gin/models/part.gin."""
    (tmp_path / "gin" / "runs").mkdir(parents=True)
    (tmp_path / "gin" / "models").mkdir()
    (tmp_path / "gin" / "models" / "part.gin").write_text("POET_TEST_ANSWER = 42\n")
    (tmp_path / "gin" / "runs" / "mine.gin").write_text("include 'gin/models/part.gin'\n")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    gin.clear_config()


@pytest.mark.parametrize("name", ["gin/runs/mine.gin", "runs/mine.gin"])
def test_a_file_is_found_by_name(own_files, name):
    assert gin_files.find(name).resolve() == (own_files / "gin" / "runs" / "mine.gin").resolve()


def test_an_absolute_path_is_taken_as_it_is(own_files):
    path = own_files / "gin" / "runs" / "mine.gin"
    assert gin_files.find(str(path)) == path


def test_included_files_are_found_from_another_directory(own_files, tmp_path, monkeypatch):
    path = gin_files.find("runs/mine.gin").resolve()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    gin.parse_config_file(str(path))
    assert gin.query_parameter("%POET_TEST_ANSWER") == 42


def test_a_wrong_name_is_answered_with_near_ones(own_files):
    with pytest.raises(ValueError, match=r"no gin file 'runs/mime.gin'.*gin/runs/mine.gin"):
        gin_files.find("runs/mime.gin")

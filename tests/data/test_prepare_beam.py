"""Beam, its processes and its job server give the bytes of a local run."""

import os
import pathlib
import subprocess
import sys
import time

import pytest
from tiny_prepare import Loudness, MeanColour, config_of, contents

from poet.data.prepare import prepare
from poet.media.errors import MediaError


@pytest.mark.filterwarnings("ignore")
def test_beam_changes_no_byte(media, whole, tmp_path):
    pytest.importorskip("apache_beam", exc_type=ImportError)
    seen = []
    config = config_of(media, tmp_path / "dataset", runner="beam", clips_per_unit=3)
    prepare(config, MeanColour(), Loudness(), lambda *done: seen.append(done))
    assert contents(tmp_path / "dataset") == contents(whole[0])
    assert seen[-1] == (9, 9)
    with pytest.raises(MediaError, match="broken.mp4 cannot be decoded"):
        prepare(
            config_of(media, tmp_path / "strict", runner="beam", strict=True),
            MeanColour(),
            Loudness(),
        )


@pytest.fixture
def importable(monkeypatch):
    """Lets Beam's worker processes find the tokenizers of this file."""
    pytest.importorskip("apache_beam", exc_type=ImportError)
    here = pathlib.Path(__file__).parent
    monkeypatch.setenv("PYTHONPATH", f"{here}{os.pathsep}{here.parents[1]}")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_processes_of_beam_change_no_byte(media, whole, tmp_path, importable):
    changes = {"runner": "multi_processing", "clips_per_unit": 3, "num_workers": 2}
    prepare(config_of(media, tmp_path / "dataset", **changes), MeanColour(), Loudness())
    assert contents(tmp_path / "dataset") == contents(whole[0])
    with pytest.raises(MediaError, match="broken.mp4 cannot be decoded"):
        config = config_of(media, tmp_path / "strict", **changes, strict=True)
        prepare(config, MeanColour(), Loudness())


@pytest.mark.filterwarnings("ignore")
def test_a_runner_that_beam_does_not_know_is_refused(media, tmp_path, importable):
    config = config_of(media, tmp_path / "dataset", runner="Sparkle")
    with pytest.raises(ValueError, match="Unexpected pipeline runner: Sparkle. Valid values are"):
        prepare(config, MeanColour(), Loudness())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_job_server_of_beam_changes_no_byte(media, whole, tmp_path, importable):
    """The portable protocol, as Flink and Spark speak it, by the server that comes with Beam."""
    port_file = tmp_path / "port"
    command = [sys.executable, "-m", "apache_beam.runners.portability.local_job_service_main"]
    server = subprocess.Popen([*command, "--port_file", str(port_file)])
    try:
        while not port_file.exists() or not port_file.read_text():
            assert server.poll() is None
            time.sleep(0.1)
        options = (
            f"--job_endpoint=localhost:{port_file.read_text()}",
            "--environment_type=beam:env:harness_subprocess_python:v1",
            f"--environment_config={sys.executable} -m apache_beam.runners.worker.sdk_worker_main",
        )
        changes = {"runner": "PortableRunner", "beam_options": options, "clips_per_unit": 3}
        prepare(config_of(media, tmp_path / "dataset", **changes), MeanColour(), Loudness())
    finally:
        server.kill()
    assert contents(tmp_path / "dataset") == contents(whole[0])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_a_failure_of_an_earlier_beam_run_is_forgotten(media, whole, tmp_path, importable):
    """The strict run leaves its reasons with the parts; the next run must not trip over them."""
    changes = {"runner": "multi_processing", "clips_per_unit": 1, "num_workers": 2}
    with pytest.raises(MediaError):
        config = config_of(media, tmp_path / "out", **changes, strict=True)
        prepare(config, MeanColour(), Loudness())
    prepare(config_of(media, tmp_path / "out", **changes), MeanColour(), Loudness())
    assert contents(tmp_path / "out") == contents(whole[0])

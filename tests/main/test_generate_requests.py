"""What a person types becomes requests; choosing by hand."""

import numpy as np
import pytest

from poet.main import generate_requests
from poet.media import video
from poet.tokens.clip import ClipShape


class FakeEngine:
    clip = ClipShape(5, 32, 32)
    sample_rate_hz = 16_000

    def decode_video(self, codes):
        return np.broadcast_to(codes[:, :1, :1, :1, None], (len(codes), 5, 32, 32, 3)).astype(
            np.uint8
        )


def test_a_person_picks_among_the_tries(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    answers = iter(["seven", "3", "2"])
    monkeypatch.setattr("builtins.input", lambda question: next(answers))
    pick = generate_requests.picker(FakeEngine(), tmp_path, 1)
    codes = {"visual": np.array([40, 80, 120])[:, None, None, None]}
    assert pick(1, codes) == 2, "until the answer is a number of a file"
    for number in range(3):
        frames = video.read_video(tmp_path / f"step1_{number}.mp4", 8.0)
        assert frames.shape == (5, 128, 128, 3)
        assert abs(frames.mean() - 40 * (number + 1)) < 4
    assert "2: " in capsys.readouterr().out


def test_without_a_terminal_nobody_can_pick(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    with pytest.raises(ValueError, match="asks at a terminal, for one request"):
        generate_requests.picker(FakeEngine(), tmp_path, 1)

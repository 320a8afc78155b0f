"""The program that scores every task; its scores have tests of their own."""

import json

import pytest

from tools import score_tasks


def test_earlier_scores_are_looked_for_first(tmp_path):
    asked = ["--checkpoint=c", "--tokenizers=t", "--clips=v", f"--out={tmp_path / 'out'}"]
    with pytest.raises(
        ValueError, match="Expected .*absent/scores.json of an earlier run, found n"
    ):
        score_tasks.main([*asked, "--beside", str(tmp_path / "absent")])
    (tmp_path / "scores.json").write_text(json.dumps({"rows": []}))
    assert score_tasks.read_scores(tmp_path) == {"rows": []}

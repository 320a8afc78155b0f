"""The program that scores every task; its scores have tests of their own."""

import json

import pytest

from poet.evals import task_scores
from tools import score_tasks


def test_a_task_that_is_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match="tasks among text_to_image, .*unconditional, got sing."):
        task_scores.run(None, tmp_path, tmp_path, None, tasks=("continue", "sing"))


def test_earlier_scores_are_looked_for_first(tmp_path):
    asked = ["--checkpoint=c", "--tokenizers=t", "--clips=v", f"--out={tmp_path / 'out'}"]
    with pytest.raises(
        ValueError, match="Expected .*absent/scores.json of an earlier run, found n"
    ):
        score_tasks.main([*asked, "--beside", str(tmp_path / "absent")])
    (tmp_path / "scores.json").write_text(json.dumps({"rows": []}))
    assert score_tasks.read_scores(tmp_path) == {"rows": []}

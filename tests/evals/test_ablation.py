"""Comparisons of models: what they refuse, and their table."""

import dataclasses
import json
import pathlib

import pytest
import tiny_lm

from poet.evals import ablation
from poet.evals.ablation import Ablation, Column, Variant
from poet.evals.checkpoint_evaluation import CheckpointEvaluation
from poet.evals.protocol import Measure, Protocol
from poet.evals.teacher_forced import TeacherForced
from poet.train import loop
from poet.train.lm import LMRun

RUN = LMRun(
    data_dir="data",
    mixture_or_task_name="poet_table1_t2v",
    model=tiny_lm.TRAINED,
    loop=loop.LoopConfig(model_dir="model", num_steps=10),
    batch_tokens=100,
)
WORDS = Protocol(
    name="words",
    task="text_to_video",
    folder="clips",
    measures=(Measure(name="all", metrics=("shapes_all_words",), num_real=None),),
)
EVALUATION = CheckpointEvaluation(
    checkpoint="", out="", losses=TeacherForced(splits=()), protocols=(WORDS,), tokenizers="both"
)


def make(**changes):
    settings = {
        "out": "out",
        "variants": (Variant(name="A", run=RUN), Variant(name="B", run=RUN)),
        "evaluation": EVALUATION,
        "columns": (Column(title="words", number="words/all/shapes_all_words"),),
    }
    return Ablation(**settings | changes)


def test_variants_are_trained_equally_long_and_differ_in_name():
    longer = dataclasses.replace(RUN, loop=dataclasses.replace(RUN.loop, num_steps=20))
    with pytest.raises(ValueError, match=r"got \[10, 20\] steps of \[100\] tokens"):
        make(variants=(Variant(name="A", run=RUN), Variant(name="B", run=longer)))
    with pytest.raises(ValueError, match=r"different names, got \['A', 'A'\]"):
        make(variants=(Variant(name="A", run=RUN), Variant(name="A", run=RUN)))
    with pytest.raises(ValueError, match="a name that can be a folder, got 'a/b'"):
        Variant(name="a/b", run=RUN)


def test_columns_are_what_is_measured():
    with pytest.raises(ValueError, match="is words/all/psnr, which .* are words/all/shapes_all"):
        make(columns=(Column(title="psnr", number="words/all/psnr"),))


def test_every_model_is_trained_scored_and_shown(monkeypatch, tmp_path):
    trained, scored = [], []
    monkeypatch.setattr(ablation.lm, "train", lambda run, text: trained.append(run))

    class Run:
        def __init__(self, evaluation):
            scored.append(evaluation)

        def run(self):
            entry = {"mean": 0.25 * len(scored), "low": 0.1, "high": 0.5, "better": "higher"}
            entry |= {"num_counted": 96, "protocol": "shapes_all_words/checker"}
            measures = {"all": {"metrics": {"shapes_all_words": entry}}}
            protocols = {"words": {"measures": measures}}
            return {"protocols": protocols, "checkpoint": {"step": 10}}

    monkeypatch.setattr(ablation.checkpoint_run, "CheckpointRun", Run)
    facts = ablation.run(make(out=str(tmp_path)), say=lambda line: None)
    assert [run.loop.model_dir for run in trained] == [
        str(tmp_path / name / "model") for name in "AB"
    ]
    assert [each.checkpoint for each in scored] == [run.loop.model_dir for run in trained]
    assert [each.out for each in scored] == [str(tmp_path / name / "evaluation") for name in "AB"]
    assert (tmp_path / "ablation.md").read_text() == (
        "| model | words (higher is better) |\n|---|---|\n"
        "| A | 0.250 (0.100 to 0.500) |\n| B | 0.500 (0.100 to 0.500) |\n"
    )
    assert facts["rows"][1]["cells"][0]["num_counted"] == 96
    assert (tmp_path / "ablation.json").is_file()


DOCS = pathlib.Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", ["ablation", "ablation_sizes"])
def test_tables_of_the_page_are_those_of_its_facts(name):
    facts = json.loads((DOCS / f"{name}.json").read_text())
    assert ablation.table(facts) in (DOCS / "results.md").read_text()

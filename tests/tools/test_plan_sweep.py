"""The sweep of plans: its commands, what it keeps of a plan, and the page's table."""

import dataclasses
import importlib.util
import json
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"
_SPEC = importlib.util.spec_from_file_location("plan_sweep", ROOT / "tools" / "plan_sweep.py")
plan_sweep = sys.modules["plan_sweep"] = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(plan_sweep)
Cell = plan_sweep.Cell
CELL = Cell(model="8b", topology="v5p:4x4x4@2", rows=6, policy="dots_no_batch", tensor=4)
PLAN = {
    "fits": True,
    "settings": {
        "num_chips": 128, "mesh": {"replica": 2, "fsdp": 64}, "state_bytes_per_chip": 2**30,
    },
    "memory_bytes": {"total": 3 * 2**30},
    "capacity_bytes": 4 * 2**30,
    "mixture": {
        "optimistic_s": 0.5, "calibrated_s": 1.0, "calibrated_mfu": 0.4567, "tokens_per_s": 1e6,
    },
    "groups": [
        {
            "is_compiled": True, "tokens": 1000, "batch_size": 768, "model_flops": 128e12,
            "executed_flops": 2e12, "hbm_bytes": 3e9, "compile_s": 7.0,
            "collectives": {"all-gather": {"bytes": 1e9}, "all-reduce": {"bytes": 2e9}},
            "prediction": {"parts": {"products": 0.7, "memory": 0.1, "links": 0.1, "dcn": 0.1}},
        },
        {"is_compiled": False, "tokens": 9000, "batch_size": 768},
    ],
}  # fmt: skip


def test_a_cell_is_a_command():
    words = " ".join(CELL.words)
    assert "--gin_file gin/models/8b.gin" in words and "--topology v5p:4x4x4@2" in words
    assert "--gin.BATCH_TOKENS=1038336" in words  # 6 rows x 128 chips x 1,352
    assert "--gin.partitioning.MeshConfig.replica=2" in words
    assert "--gin.partitioning.MeshConfig.tensor=4" in words
    assert CELL.name == "8b/v5p-4x4x4-slices2/dots_no_batch-6-tensor4"


def test_every_cell_has_a_folder_of_its_own():
    names = [cell.name for cell in plan_sweep.CELLS]
    assert len(set(names)) == len(names)


def test_a_row_says_what_a_plan_found(tmp_path):
    folder = tmp_path / CELL.name
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text(json.dumps([PLAN]))
    row = plan_sweep.numbers(CELL, tmp_path)
    assert row["num_groups"] == [1, 2] and row["compile_s"] == 7.0
    assert plan_sweep.table([row]).splitlines()[-1] == (
        "| 8B, v5p:4x4x4@2 | replica 2 fsdp 64 | 6 (1,000) | `dots_no_batch`"
        " | 3.0 of 4.0 (1.00) | 1.0 | 2.0 | 3 | 3.0 | 0.500 | 1.000 | 45.7% | 70, 10, 10, 10 % |"
    )


def test_what_the_compiler_refuses_is_a_row_too(tmp_path):
    folder = tmp_path / CELL.name
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text("[]")
    row = plan_sweep.numbers(CELL, tmp_path)
    assert not row["fits"] and "| does not fit |" in plan_sweep.table([row])


def test_copies_of_the_state_in_a_slice_multiply_those_over_slices():
    cell = dataclasses.replace(CELL, copies=4)
    assert "--gin.partitioning.MeshConfig.replica=8" in cell.words
    assert cell.name == "8b/v5p-4x4x4-slices2/dots_no_batch-6-tensor4-copies4"


def test_a_head_by_tiles_is_a_file_more_and_is_said(tmp_path):
    cell = dataclasses.replace(CELL, head_by_tiles=True)
    assert cell.command.count("gin/models/head_by_tiles.gin") == 1
    assert cell.name.endswith("-by-tiles") and "head_by_tiles" not in CELL.command
    (tmp_path / cell.name).mkdir(parents=True)
    (tmp_path / cell.name / "plan.json").write_text(json.dumps([PLAN]))
    row = plan_sweep.numbers(cell, tmp_path)
    assert "| `dots_no_batch`, head by tiles |" in plan_sweep.table([row])


def test_rows_are_written_beside_those_of_other_cells(tmp_path, monkeypatch):
    file, other = tmp_path / "scale.json", dataclasses.replace(CELL, rows=3)
    monkeypatch.setattr(plan_sweep, "CELLS", (CELL, other))
    row = {"command": CELL.command, "number": 1}
    with pytest.raises(ValueError, match=r"has no row of 8b/\S+-3-tensor4 yet"):
        plan_sweep.beside_others([row], file)
    file.write_text(json.dumps({"rows": [row, {"command": other.command, "number": 2}]}))
    found = plan_sweep.beside_others([row | {"number": 7}], file)
    assert [each["number"] for each in found] == [7, 2]


def test_a_plan_that_ends_with_an_error_stops_the_sweep(tmp_path, monkeypatch):
    broken = Cell(model="none", topology="v5e:2x2", rows=1, policy="full")
    monkeypatch.setattr(plan_sweep, "CELLS", (broken,))
    with pytest.raises(SystemExit, match=r"(?s)gin/models/none.gin.*ended with 2:"):
        plan_sweep.main(["--out", str(tmp_path)])


def test_a_name_that_no_cell_has_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        plan_sweep.main(["--out", str(tmp_path), "--only", "70b"])
    assert "no name matches '70b'" in capsys.readouterr().err


def test_the_page_has_the_numbers_of_its_file():
    facts = json.loads((DOCS / "scale.json").read_text())
    assert facts["format"] == plan_sweep.FORMAT
    assert plan_sweep.table(facts["rows"]) in (DOCS / "scale.md").read_text()

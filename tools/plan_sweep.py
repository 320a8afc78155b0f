"""Plans the paper's three models on many slices, and writes what docs/scale.md shows.

    python tools/plan_sweep.py --out out/scale --write docs/scale.json      # all, hours
    python tools/plan_sweep.py --out out/scale --only '^8b/v6e'             # names that match,
                                      # with --write beside the other rows that its file has

One `poet plan` after the other (libtpu of the extra `plan`, no TPU), each in a process and a folder
of its own; what is finished in --out is not planned again. The flags of `tools/launch/xla_tpu.txt`
go along, as in a launched run. Prints the table; --write keeps its numbers as JSON.
"""

import argparse
import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from poet.media.write import temporary_sibling
from poet.plan.chips import parse_topology
from poet.train.progress import Progress

ROOT = Path(__file__).resolve().parents[1]
FORMAT = "poet scale 1"
# Tokens of a row of text to video at the paper's sizes that batches are counted in.
_LENGTH = 1351
_COLUMNS = (
    "model, chips", "mesh", "rows a chip (tokens)", "kept", "GiB a chip (state)", "model TFLOP",
    "done TFLOP", "HBM GB", "exchanged GB", "optimistic s", "calibrated s", "calibrated MFU",
    "products, memory, links, slices",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One plan.

    Attributes:
      model: Of gin/models/.
      topology: As `poet plan` takes it.
      rows: Of text to video, a chip.
      policy: What rematerialisation keeps.
      large_tiles: Whether the loss keeps its logits (gin/models/large_tiles.gin).
      head_by_tiles: Whether no chip holds a whole head (gin/models/head_by_tiles.gin).
      tensor: Ways of the mesh's axis.
      task: The only group; "" plans the whole pretraining mixture.
      copies: Of the state in each slice. TPU's compiler scatters gradients over small groups of
        chips only, and sums them over larger ones.
    """

    model: str
    topology: str
    rows: float
    policy: str
    large_tiles: bool = False
    tensor: int = 1
    task: str = "text_to_video"
    copies: int = 1
    head_by_tiles: bool = False

    @property
    def name(self) -> str:
        """Path of its folder."""
        parts = [self.policy, f"{self.rows:g}"]
        parts += [f"tensor{self.tensor}"] if self.tensor > 1 else []
        parts += [f"copies{self.copies}"] if self.copies > 1 else []
        parts += ["tiles"] if self.large_tiles else []
        parts += ["by-tiles"] if self.head_by_tiles else []
        parts += [] if self.task == "text_to_video" else [self.task or "mixture"]
        where = self.topology.replace(":", "-").replace("@", "-slices")
        return "/".join([self.model, where, "-".join(parts)])

    @property
    def words(self) -> list[str]:
        """The command after `poet plan`, without its --out."""
        chips = parse_topology(self.topology).num_chips
        files = ["gin/runs/pretrain.gin", f"gin/models/{self.model}.gin"]
        files += ["gin/models/large_tiles.gin"] if self.large_tiles else []
        files += ["gin/models/head_by_tiles.gin"] if self.head_by_tiles else []
        bindings = [
            "lm.LMRun.text_is_frozen=True",
            f"BATCH_TOKENS={round(self.rows * chips * (_LENGTH + 1))}",
            f"config.PrefixLMConfig.remat_policy={self.policy}",
        ]
        copies = self.copies * parse_topology(self.topology).num_slices
        bindings += [f"partitioning.MeshConfig.replica={copies}"] if copies > 1 else []
        bindings += [f"MIXTURE_OR_TASK_NAME=poet_{self.task}"] if self.task else []
        bindings += [f"partitioning.MeshConfig.tensor={self.tensor}"] if self.tensor > 1 else []
        return [
            *(word for file in files for word in ("--gin_file", file)),
            *(f"--gin.{binding}" for binding in bindings),
            *("--topology", self.topology, "--no_proposals"),
        ]

    @property
    def command(self) -> str:
        """The whole command."""
        return "poet plan " + " ".join(self.words)


_BY_TILES = {"head_by_tiles": True}
_V5P = {"policy": "dots_no_batch", "large_tiles": True}

CELLS = (
    Cell(model="300m", topology="v5e:4x4", rows=12, policy="attention"),
    Cell(model="300m", topology="v5e:16x16", rows=12, policy="attention"),
    Cell(model="300m", topology="v5p:2x2x4", rows=12, **_V5P),
    Cell(model="300m", topology="v6e:4x4", rows=12, policy="dots_no_batch"),
    Cell(model="1b", topology="v5e:4x4", rows=6, policy="full"),
    Cell(model="1b", topology="v5e:16x16", rows=6, policy="full"),
    Cell(model="1b", topology="v5e:16x16", rows=6, policy="full", copies=4),
    Cell(model="1b", topology="v5p:2x2x4", rows=6, **_V5P),
    Cell(model="1b", topology="v5p:4x4x4", rows=6, **_V5P),
    Cell(model="1b", topology="v5p:4x4x4", rows=6, copies=4, **_V5P),
    Cell(model="1b", topology="v6e:4x4", rows=12, policy="dots_no_batch"),
    Cell(model="1b", topology="v6e:16x16", rows=12, policy="dots_no_batch"),
    Cell(model="1b", topology="v6e:16x16", rows=12, policy="dots_no_batch", copies=2),
    Cell(model="1b", topology="v6e:16x16", rows=16, policy="dots_no_batch", copies=2, **_BY_TILES),
    Cell(model="8b", topology="v5e:4x4", rows=1, policy="full", tensor=4),
    Cell(model="8b", topology="v5e:4x4", rows=4, policy="full", **_BY_TILES),
    Cell(model="8b", topology="v5e:8x8", rows=3, policy="full"),
    Cell(model="8b", topology="v5e:8x8", rows=3, policy="full", tensor=4),
    Cell(model="8b", topology="v5e:8x8", rows=6, policy="full", **_BY_TILES),
    Cell(model="8b", topology="v5e:16x16", rows=6, policy="full"),
    Cell(model="8b", topology="v5e:16x16", rows=4, policy="full", tensor=4),
    Cell(model="8b", topology="v5e:16x16", rows=6, policy="full", **_BY_TILES),
    Cell(model="8b", topology="v5e:16x16", rows=6, policy="full", copies=4, **_BY_TILES),
    Cell(
        model="8b",
        topology="v5e:16x16",
        rows=4,
        policy="dots_except_widening",
        copies=4,
        **_BY_TILES,
    ),
    Cell(model="8b", topology="v5p:2x2x4", rows=6, **_V5P),
    Cell(model="8b", topology="v5p:4x4x4", rows=6, **_V5P),
    Cell(model="8b", topology="v5p:4x4x4", rows=6, copies=4, **_V5P),
    Cell(model="8b", topology="v5p:8x8x4", rows=6, **_V5P),
    Cell(model="8b", topology="v5p:8x8x4", rows=6, copies=8, **_V5P),
    Cell(model="8b", topology="v5p:8x8x8", rows=6, **_V5P),
    Cell(model="8b", topology="v5p:16x16x16", rows=6, **_V5P),
    Cell(model="8b", topology="v5p:16x16x16", rows=6, copies=128, **_V5P),
    Cell(model="8b", topology="v6e:4x4", rows=12, policy="full"),
    Cell(model="8b", topology="v6e:4x4", rows=10, policy="full", **_BY_TILES),
    Cell(model="8b", topology="v6e:8x8", rows=12, policy="full"),
    Cell(model="8b", topology="v6e:16x16", rows=12, policy="full"),
    Cell(model="8b", topology="v6e:16x16", rows=12, policy="full", copies=2),
    Cell(model="8b", topology="v6e:16x16", rows=4, policy="dots_no_batch"),
    Cell(model="8b", topology="v6e:16x16", rows=5, policy="dots_except_widening", copies=2),
    Cell(model="8b", topology="v6e:16x16", rows=5, policy="dots_no_batch", copies=2, **_BY_TILES),
    Cell(model="1b", topology="v5e:16x16@2", rows=6, policy="full"),
    Cell(model="1b", topology="v5e:16x16@4", rows=6, policy="full"),
    Cell(model="8b", topology="v6e:16x16@2", rows=12, policy="full"),
    Cell(model="8b", topology="v6e:16x16@2", rows=12, policy="full", **_BY_TILES),
    Cell(
        model="8b",
        topology="v5e:16x16@2",
        rows=4,
        policy="dots_except_widening",
        copies=4,
        **_BY_TILES,
    ),
    Cell(model="8b", topology="v5p:4x4x4@2", rows=6, **_V5P),
    Cell(model="8b", topology="v5p:4x4x4@4", rows=6, **_V5P),
    Cell(model="8b", topology="v5p:4x4x4@2", rows=6, copies=4, **_V5P),
    Cell(model="8b", topology="v5p:4x4x4@4", rows=6, copies=4, **_V5P),
    Cell(model="300m", topology="v5e:4x4", rows=12, policy="attention", task=""),
    Cell(model="1b", topology="v5p:4x4x4", rows=6, task="", **_V5P),
    Cell(model="8b", topology="v5p:4x4x4", rows=6, task="", **_V5P),
    Cell(model="8b", topology="v5p:4x4x4", rows=6, task="", copies=4, **_V5P),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Plans what is not planned yet and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, help="folder of the plans")
    parser.add_argument("--only", default="", help="a regular expression for names of cells")
    parser.add_argument("--write", default="", help="JSON file that gets the table's numbers")
    args = parser.parse_args(argv)
    cells = [cell for cell in CELLS if re.search(args.only, cell.name)]
    if not cells:
        parser.error(f"no name matches {args.only!r}: {', '.join(cell.name for cell in CELLS)}")
    with Progress("plan", len(cells), unit="plans", period_s=0.0) as progress:
        for number, cell in enumerate(cells, 1):
            plan(cell, Path(args.out), progress)
            progress.update(number, cell.name)
    rows = [numbers(cell, Path(args.out)) for cell in cells]
    print(table(rows))
    if args.write:
        facts = {"format": FORMAT, "rows": beside_others(rows, Path(args.write))}
        with temporary_sibling(args.write) as temporary:
            temporary.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return 0


def beside_others(rows: Sequence[dict[str, Any]], file: Path) -> list[dict[str, Any]]:
    """All rows in the order of `CELLS`: these, and of other cells those that the file has.

    Raises:
      ValueError: a cell is in neither.
    """
    before = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.exists() else []
    known = {row["command"]: {"copies": 1} | row for row in [*before, *rows]}
    commands = {cell.name: cell.command for cell in CELLS}
    missing = [name for name, command in commands.items() if command not in known]
    if missing:
        raise ValueError(
            f"{file} has no row of {', '.join(missing)} yet, and --only leaves them out; plan them"
            " too, or leave out --write."
        )
    return [known[command] for command in commands.values()]


def plan(cell: Cell, out: Path, progress: Progress) -> None:
    """Runs `poet plan` for a cell that has no result in `out`."""
    folder = out / cell.name
    if (folder / "plan.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    flags = (ROOT / "tools/launch/xla_tpu.txt").read_text(encoding="utf-8")
    flags = " ".join(re.sub(r"#.*", "", flags).split())
    command = [sys.executable, "-m", "poet.main.plan", *cell.words, "--out", str(folder)]
    with open(folder / "log.txt", "w", encoding="utf-8") as log:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | {"LIBTPU_INIT_ARGS": flags},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    if not (folder / "plan.json").exists():
        said = (folder / "log.txt").read_text(encoding="utf-8")
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{said[-2000:]}")
    progress.say(f"{cell.name}: exit code {done.returncode}")


def numbers(cell: Cell, out: Path) -> dict[str, Any]:
    """What the table and docs/scale.json have of a cell."""
    row = dataclasses.asdict(cell) | {"command": cell.command}
    plans = json.loads((out / cell.name / "plan.json").read_text(encoding="utf-8"))
    if not plans:  # refused by the compiler
        return row | {"fits": False}
    (found,) = plans
    mixture, settings = found["mixture"], found["settings"]
    compiled = [group for group in found["groups"] if group["is_compiled"]]
    longest = max(compiled, key=lambda group: group["tokens"] / group["batch_size"])
    chips = settings["num_chips"]
    return row | {
        "fits": found["fits"],
        "num_chips": chips,
        "mesh": settings["mesh"],
        "batch_size": longest["batch_size"],
        "tokens": longest["tokens"],
        "num_groups": [len(compiled), len(found["groups"])],
        "memory_bytes": found["memory_bytes"]["total"],
        "state_bytes": settings["state_bytes_per_chip"],
        "capacity_bytes": found["capacity_bytes"],
        "model_flops_per_chip": longest["model_flops"] / chips,
        "executed_flops": longest["executed_flops"],
        "hbm_bytes": longest["hbm_bytes"],
        "exchanged_bytes": sum(one["bytes"] for one in longest["collectives"].values()),
        "optimistic_s": mixture["optimistic_s"],
        "calibrated_s": mixture["calibrated_s"],
        "calibrated_mfu": mixture["calibrated_mfu"],
        "tokens_per_s": mixture["tokens_per_s"],
        "parts": longest["prediction"]["parts"],
        "compile_s": sum(group["compile_s"] for group in compiled),
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown, a row a plan."""
    lines = ["| " + " | ".join(_COLUMNS) + " |", "|" + "---|" * len(_COLUMNS)]
    lines += ["| " + " | ".join(_cells(row)) + " |" for row in rows]
    return "\n".join(lines)


def _cells(row: Mapping[str, Any]) -> list[str]:
    name = f"{row['model'].replace('m', 'M').replace('b', 'B')}, {row['topology']}"
    if not row["task"] and "num_groups" in row:
        name += f", mixture of {row['num_groups'][1]} groups"
    kept = f"`{row['policy']}`" + (", logits" if row["large_tiles"] else "")
    kept += ", head by tiles" if row.get("head_by_tiles") else ""
    if "parts" not in row:  # refused by the compiler
        return [name, "", f"{row['rows']:g}", kept, "does not fit", *[""] * (len(_COLUMNS) - 5)]
    parts = row["parts"]
    shares = ", ".join(f"{parts[key]:.0%}"[:-1] for key in ("products", "memory", "links", "dcn"))
    return [
        name,
        " ".join(f"{axis} {size}" for axis, size in row["mesh"].items()),
        f"{row['batch_size'] / row['num_chips']:g} ({row['tokens']:,})",
        kept,
        f"{row['memory_bytes'] / 2**30:.1f} of {row['capacity_bytes'] / 2**30:.1f}"
        f" ({row['state_bytes'] / 2**30:.2f})" + ("" if row["fits"] else ", does not fit"),
        f"{row['model_flops_per_chip'] / 1e12:.1f}",
        f"{row['executed_flops'] / 1e12:.1f}",
        f"{row['hbm_bytes'] / 1e9:.0f}",
        f"{row['exchanged_bytes'] / 1e9:.1f}",
        f"{row['optimistic_s']:.3f}",
        f"{row['calibrated_s']:.3f}",
        f"{row['calibrated_mfu']:.1%}",
        f"{shares} %",
    ]


if __name__ == "__main__":
    sys.exit(main())

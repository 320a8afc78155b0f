"""What a run of the language model says of itself when it starts."""

from collections.abc import Mapping
from typing import Any

from poet.data import padding
from poet.data.batches import AgdBatches
from poet.data.records import Dataset
from poet.models import counting
from poet.tokens.schedule import RASTER
from poet.train.meta import to_json


def rows(
    dataset: Dataset, batches: AgdBatches, model_shapes: Any, mesh: Any, facts: Mapping[str, Any]
) -> tuple[tuple[str, str], ...]:
    """(what, value) of data, model and devices, of each group, and of what is unusual."""
    splits = ", ".join(f"{count:,} {name}" for name, count in dataset.splits.items())
    found = [
        ("dataset", f"{dataset.directory} ({splits})"),
        ("parameters", counting.in_words(counting.count_by_part(model_shapes))),
        ("devices", f"{mesh.size} x {mesh.devices.flat[0].device_kind}"),
    ]
    for group in batches.describe():
        share = group["share"]
        late = share if isinstance(share, float) else share[-1]
        found.append(
            (
                str(group["group"]),
                f"{group['batch']} x {group['length']} tokens (prefix {group['prefix']}),"
                f" {late:.0%} of the steps, {group['records']:,} records",
            )
        )
    for name, reason in batches.left_out.items():
        found.append((name, f"left out, {reason}"))
    padded = padding.measure(batches, num_steps=200)
    found.append(
        (
            "padding",
            f"{padded.groups:.1%} in groups ({padded.alignment:.1%} to blocks of 128); padded to"
            f" the longest it would be {padded.padded:.1%}, packed {padded.packed:.1%}",
        )
    )
    return (*found, *_order_rows(facts))


def _order_rows(facts: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """What is unusual about a run's beginning, what it trains and its order of tokens."""
    rows = []
    if facts["adapters"]:
        words = "rank {rank} of {kernels}; nothing else trains".format(**facts["adapters"])
        rows.append(("adapters", words))
    if facts["init_from"]:
        rows.append(("begun with", "step {step:,} of {model_dir}".format(**facts["init_from"])))
    if facts["schedule"] != to_json(RASTER):
        rows.append(("order of tokens", "{name}, slope {slope}".format(**facts["schedule"])))
    return tuple(rows)

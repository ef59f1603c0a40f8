"""The layout `ladder`: what is left of each defense, level by level. Imports no torch.

A row per defense and ball. A level has the attacks of its access and of the levels before it,
image by image: who has the full gradient can run BPDA, and everybody a transfer attack.
``worst`` has all attacks of the run, also those by queries. A level is empty where no attack of
its access ran, such as the full gradient of a purifier that has none.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from bench.core.threat import Access
from bench.paper.attacks import worst
from bench.paper.cells import Cells, Row, arm, frame_of, grouped

LEVELS = (Access.TRANSFER, Access.BPDA, Access.FULL)  # what is known, rising
_PARTS = ("", "_low", "_high")
COLUMNS = (
    "dataset", "classifier", "norm", "eps", "defense", "settings", "training_seed", "steps",
    "clean", "clean_low", "clean_high",
    *(f"{level}{part}" for level in (*LEVELS, "worst") for part in _PARTS),
    "attack", "access", "passes", "attacked", "n", "seed", "draws", "judging", "audit", "state",
    "note", "keys", "classifier_checkpoint", "checkpoint",
)  # fmt: skip


def table(runs: list[tuple[Cells, dict[str, Any]]]) -> pd.DataFrame:
    """Write a row per defense and ball."""
    rows = []
    for cells, _ in runs:
        found = cells.rows()
        for row in found:
            row["_arm"] = arm(cells.contents[row["key"]], attack=False)
        rows += [_row(cells, group) for group in grouped(found, "_arm")]
    return frame_of(rows, COLUMNS)


def _row(cells: Cells, group: list[Row]) -> Row:
    tried = [row for row in group if row["state"] != "skipped"] or group
    whole = worst(cells, tried, "worst case")
    row: Row = whole | {f"worst{part}": whole.get(f"robust{part}") for part in _PARTS}
    for number, level in enumerate(LEVELS, 1):
        if any(one["access"] == level and one["state"] == "done" for one in tried):
            same = [one for one in tried if one["access"] in LEVELS[:number]]
            left = worst(cells, same, str(level))
            row |= {f"{level}{part}": left.get(f"robust{part}") for part in _PARTS}
    failed = next((one for one in tried if one["state"] != "done"), None)
    return row | ({"note": failed["note"]} if failed else {})

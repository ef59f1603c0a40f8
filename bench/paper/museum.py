"""The layout `museum`: what was claimed of a defense, and what attacks leave. Imports no torch.

A row per defense and ball: the claim as it was published, with the access that it was measured
under; what our attacks leave at each access, image by image; the worst case over all of them;
and the attack that leaves the least. What an audit says stands beside it: nothing here calls a
defense broken.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from bench.core.threat import Access
from bench.paper.attacks import worst
from bench.paper.cells import Cells, Row, frame_of
from bench.paper.levels import arms, claimed, columns, left, under

# What is known, rising.
LEVELS = (Access.TRANSFER, Access.LABEL, Access.QUERY, Access.BPDA, Access.FULL)
COLUMNS = columns(LEVELS, claims=True)


def table(runs: list[tuple[Cells, dict[str, Any]]]) -> pd.DataFrame:
    """Write a row per defense and ball, from runs and what was claimed of each defense."""
    rows = [_row(cells, group, claims) for cells, claims in runs for group in arms(cells)]
    return frame_of(rows, COLUMNS)


def _row(cells: Cells, group: list[Row], claims: dict[str, Any]) -> Row:
    tried = [row for row in group if row["state"] != "skipped"]
    whole = worst(cells, tried or group, "worst case")
    row: Row = whole | claimed(group[0], claims) | under("worst", whole)
    for level in LEVELS:
        same = [one for one in tried if one["access"] == level and one["state"] == "done"]
        if same:
            row |= left(cells, same, level)
    done = [one for one in tried if one["state"] == "done"]
    if done:
        least = min(done, key=lambda one: float(one["robust"]))
        row |= {name: least[name] for name in ("attack", "access")}
        row |= {name: least[name] for name in ("clean", "clean_low", "clean_high")}
    missing = next((one for one in tried if one["state"] != "done"), None)
    if missing is not None:  # such as published weights that are not there
        row |= {"state": missing["state"], "note": missing["note"]}
    return row

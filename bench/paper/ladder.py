"""The layout `ladder`: what is left of each defense, level by level. Imports no torch.

A row per defense and ball. A level has the attacks of its access and of the levels before it,
image by image: who has the full gradient can run BPDA, and everybody a transfer attack.
``worst`` has all attacks of the run, also those by queries. A level is empty where no attack of
its access ran, such as the full gradient of a purifier that has none. Where a run has claims,
what was published of each defense stands beside it.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from bench.core.threat import Access
from bench.paper.attacks import worst
from bench.paper.cells import Cells, Row, frame_of
from bench.paper.levels import arms, claimed, columns, left, under

LEVELS = (Access.TRANSFER, Access.BPDA, Access.FULL)  # what is known, rising


def table(runs: list[tuple[Cells, dict[str, Any]]]) -> pd.DataFrame:
    """Write a row per defense and ball, from runs and what was claimed of each defense."""
    rows = [_row(cells, group, claims) for cells, claims in runs for group in arms(cells)]
    return frame_of(rows, columns(LEVELS, claims=any(claims for _, claims in runs)))


def _row(cells: Cells, group: list[Row], claims: dict[str, Any]) -> Row:
    tried = [row for row in group if row["state"] != "skipped"] or group
    whole = worst(cells, tried, "worst case")
    row: Row = whole | claimed(group[0], claims) | under("worst", whole)
    for number, level in enumerate(LEVELS, 1):
        if any(one["access"] == level and one["state"] == "done" for one in tried):
            same = [one for one in tried if one["access"] in LEVELS[:number]]
            row |= left(cells, same, level)
    failed = next((one for one in tried if one["state"] != "done"), None)
    return row | ({"note": failed["note"]} if failed else {})

"""The layout `attacks`: every defense under every attack, and the worst. Imports no torch.

Worst cases are taken image by image within one run and one ball: what is unbounded is never
joined with what is bounded. An attack that occurs with several settings has a row for the worst
of them, except in a ladder, whose later attacks saw only survivors.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from bench.paper.cells import Cells, Row, arm, frame_of, grouped
from bench.results.rows import COLUMNS as CELL
from bench.results.table import with_worst_case

COLUMNS = (
    "dataset", "classifier", "norm", "eps", "defense", "attack", "access", "settings",
    "training_seed", "steps",
    "clean", "clean_low", "clean_high", "robust", "robust_low", "robust_high",
    "attacked", "passes", "seconds", "n", "seed", "draws", "judging", "audit", "state", "note",
    "keys", "classifier_checkpoint", "checkpoint",
)  # fmt: skip


def table(runs: list[tuple[Cells, dict[str, float]]]) -> pd.DataFrame:
    """Write a row per cell, per attack with several settings, and per defense."""
    rows: list[Row] = []
    for cells, _ in runs:
        found = cells.rows()
        for row in found:
            row["_arm"] = arm(cells.contents[row["key"]], attack=False)
            row["_attack"] = (row["attack"], row["access"])
        for group in grouped(found, "_arm"):
            rows += _with_worst(cells, group)
    # A column of what is certified only where something is: most tables are of Linf balls.
    certified = ("certified",) if any(pd.notna(row.get("certified")) for row in rows) else ()
    return frame_of(rows, (*COLUMNS, *certified))


def _with_worst(cells: Cells, group: list[Row]) -> list[Row]:
    rows = list(group)
    kinds = list(grouped((row for row in group if row["state"] != "skipped"), "_attack"))
    ladder = any(cells.contents[row["key"]].get("after") for row in group)
    for same in kinds:
        if len(same) > 1 and not ladder:
            rows.append(worst(cells, same, f"{same[0]['attack']}, worst of {len(same)}"))
    if len(kinds) > 1:
        rows.append(worst(cells, [row for kind in kinds for row in kind], "worst case"))
    return rows


def worst(cells: Cells, rows: list[Row], name: str) -> Row:
    """Join attacks image by image; no number where one of them has none."""
    first = rows[0]
    kept = ["dataset", "classifier", "norm", "eps", "defense", "training_seed", "steps"]
    kept += ["n", "seed", "draws", "judging", "classifier_checkpoint", "checkpoint"]
    row: dict[str, Any] = {
        **{name: first[name] for name in kept},
        "attack": name,
        "access": "/".join(sorted({row["access"] for row in rows})),
        "settings": first["settings"].without("attack"),
        "keys": " ".join(row["key"] for row in rows),
    }
    without = [row["key"] for row in rows if row["state"] != "done"]
    if without:
        return {**row, "state": "incomplete", "note": f"no result of {', '.join(without)}"}
    keys = [row["key"] for row in rows]
    frame = cells.frame[cells.frame["key"].isin(keys)][list(CELL)]
    added = with_worst_case(frame, cells.store).iloc[len(frame) :].to_dict("records")
    if len(added) != 1:
        why = "no attack saw all images" if not added else "its checkpoints differ"
        return {**row, "state": "incomplete", "note": why}
    taken = ["clean", "clean_low", "clean_high", "robust", "robust_low", "robust_high"]
    taken += ["attacked", "passes", "seconds", "audit", "certified", "state", "note"]
    taken += ["checkpoint", "classifier_checkpoint"]
    return row | {name: added[0][name] for name in taken}

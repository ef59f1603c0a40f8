"""The layout `ablation`: one accuracy by two parameters of a defense. Imports no torch."""

from __future__ import annotations

from typing import Any

import pandas as pd

from bench.paper.cells import (
    Cells,
    Row,
    arm,
    frame_of,
    grouped,
    parameter,
    records,
)
from bench.paper.spec import Head
from bench.results.render import columns_of, told_apart

COLUMNS = (
    "block", "dataset", "classifier", "norm", "eps", "attack", "access", "defense", "settings",
    "row", "column",
    "clean", "clean_low", "clean_high", "robust", "robust_low", "robust_high",
    "n", "seed", "draws", "judging", "audit", "state", "note", "training_seed", "keys",
    "classifier_checkpoint", "checkpoint",
)  # fmt: skip


def table(runs: list[tuple[Cells, dict[str, float]]], head: Head) -> pd.DataFrame:
    """Write a row per cell, its block (all but the two parameters) and its place there."""
    assert head.rows is not None  # read_table refuses the layout without them
    assert head.columns is not None
    swept = [head.rows, head.columns]
    rows: list[Row] = []
    blocks = 0
    for cells, _ in runs:
        found = cells.rows()
        for row in found:
            content = cells.contents[row["key"]]
            row["_arm"] = arm(content, attack=True, without=swept)
            row["row"], row["column"] = (parameter(content, path) for path in swept)
            targets = [f"defense.{path}" for path in swept]
            row["settings"] = row["settings"].without(*targets)
        for group in grouped(found, "_arm"):
            blocks += 1
            rows += [{**row, "block": blocks} for row in group]
    return frame_of(rows, COLUMNS)


def pivot(frame: pd.DataFrame, head: Head) -> tuple[list[str], list[list[Any]]]:
    """Lay the blocks out below each other: heads, and rows of robust accuracy (clean)."""
    columns = _ordered(frame["column"])
    labels = _labels(frame)
    heads = [*labels, str(head.rows), *(f"{head.columns} {_name(value)}" for value in columns)]
    rows = []
    for _, block in frame.groupby("block", sort=False):
        for value in _ordered(block["row"]):
            line = block[[_same(other, value) for other in block["row"]]]
            places = {_name(row["column"]): row for row in records(line)}
            first = block.iloc[0]
            rows.append(
                [*(first[name] for name in labels), _name(value)]
                + [_text(places.get(_name(column))) for column in columns]
            )
    return heads, rows


def _labels(frame: pd.DataFrame) -> list[str]:
    """Choose the columns by which the blocks can be told apart."""
    first = frame.drop_duplicates("block")
    columns = columns_of(first)
    for name in ("checkpoint", "state"):  # a row's own, not the block's
        del columns[name]
    columns["key"] = list(map(str, first["block"]))
    found = told_apart(columns, ["dataset", "defense"])
    order = ["dataset", "norm", "eps", "classifier", "attack", "access", "defense", "settings"]
    order += ["n", "seed", "draws", "judging", "classifier_checkpoint"]
    kept = [name for name in order if name in ("dataset", "defense", *found)]
    return [*kept, "block"] if "key" in found else kept


def _ordered(values: pd.Series[Any]) -> list[Any]:
    """Each value once, numbers by size, what a defense does not have first."""
    once = {_name(value): value for value in values}
    numbers = [value for value in once.values() if _is_number(value)]
    others = [value for value in once.values() if not _is_number(value)]
    return [*others, *sorted(numbers)]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not pd.isna(value)


def _same(one: Any, other: Any) -> bool:
    return _name(one) == _name(other)


def _name(value: Any) -> str:
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return "-"
    return f"{value:g}" if _is_number(value) else str(value)


def _text(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    if row["state"] != "done":
        return str(row["state"])
    clean = "" if pd.isna(row["clean"]) else f" ({row['clean']:.1f})"
    return f"{row['robust']:.1f}{clean}"

"""A row per defense and ball, with what is left at each access. Imports no torch.

The layouts `ladder` and `museum` share it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from bench.paper.attacks import worst
from bench.paper.cells import Cells, Row, arm, grouped

_PARTS = ("", "_low", "_high")
CLAIM = ("who", "year", "claim", "claimed_access")  # of what was published of a defense


def columns(levels: Sequence[str], *, claims: bool) -> tuple[str, ...]:
    """List the columns of a table with these levels of access, and what was claimed."""
    return (
        "dataset", "classifier", "norm", "eps", "defense", "settings", "training_seed", "steps",
        *(CLAIM if claims else ()), "clean", "clean_low", "clean_high",
        *(f"{level}{part}" for level in (*levels, "worst") for part in _PARTS),
        "attack", "access", "passes", "attacked", "n", "seed", "draws", "judging", "audit",
        "state", "note", "keys", "classifier_checkpoint", "checkpoint",
    )  # fmt: skip


def arms(cells: Cells) -> Iterator[list[Row]]:
    """Group the rows of a run by what was asked of the defense, whatever the attack."""
    found = cells.rows()
    for row in found:
        row["_arm"] = arm(cells.contents[row["key"]], attack=False)
    return grouped(found, "_arm")


def claimed(row: Row, claims: dict[str, Any]) -> Row:
    """Return the claim of a row's defense, empty where nobody claims anything."""
    return {**dict.fromkeys(CLAIM), **claims.get(row["defense"], {})}


def left(cells: Cells, rows: list[Row], level: str) -> dict[str, Any]:
    """Say in percent, with its interval, what is left of the images by all attacks of rows."""
    return under(level, worst(cells, rows, level))


def under(level: str, row: Row) -> dict[str, Any]:
    """Write a row's robust accuracy and its interval under the name of a level."""
    return {f"{level}{part}": row.get(f"robust{part}") for part in _PARTS}

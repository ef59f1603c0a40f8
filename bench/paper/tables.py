"""A table as it is read: from cells to every column, and to those of a page.

Imports no torch. No number comes from anywhere but the stored outcomes, beside the paper's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from bench.paper import ablation, attacks, gain, ladder, museum
from bench.paper.cells import Cells, Row, records
from bench.paper.levels import CLAIM
from bench.paper.spec import Head
from bench.results.render import columns_of, needed
from bench.results.settings import Settings, common_to

# Told once under the table where all rows agree and the page has no column of it.
_CONSTANT = ("dataset", "classifier", "norm", "eps", "attack", "access", "n", "draws",
             "seed", "judging", "audit")  # fmt: skip


def table(runs: list[tuple[Cells, dict[str, Any]]], head: Head) -> pd.DataFrame:
    """Write the rows of a table with every column, from runs and what papers claim."""
    if head.layout == "gain":
        return gain.table(runs, head)
    if head.layout == "museum":
        return museum.table(runs)
    if head.layout == "ladder":
        return ladder.table(runs)
    return attacks.table(runs) if head.layout == "attacks" else ablation.table(runs, head)


def page(frame: pd.DataFrame, head: Head) -> tuple[list[str], list[list[str]]]:
    """Choose what fits a page: heads and rows of text, columns without any text left out."""
    if head.layout == "ablation":
        heads, places = ablation.pivot(frame, head)
        return heads, [[_plain(value) for value in row] for row in places]
    shown = {"gain": _GAIN, "ladder": _LADDER, "museum": _MUSEUM}.get(head.layout, _ATTACKS)
    if not set(CLAIM) <= set(frame):  # a ladder beside which nothing is claimed
        shown = {name: write for name, write in shown.items() if name not in _CLAIM}
    common = common_to(frame["settings"].tolist())
    said = _settings_of_defenses if head.layout == "gain" else str
    rows_of_text = [
        {**row, "settings": said(row["settings"].minus(common))} for row in records(frame)
    ]
    text = {name: [write(row) for row in rows_of_text] for name, write in shown.items()}
    labels = [name for name in text if name in _TELLS_APART]
    columns = {**columns_of(frame), **text}
    text |= {name: columns[name] for name in needed(columns, labels)}
    for name in ("classifier", "attack", "access", "seed", "audit"):
        if name in text and len(set(text[name])) == 1 and (name, head.layout) not in _KEPT:
            del text[name]  # `constants` tells it
    if set(text["state"]) == {"done"}:
        del text["state"]
    text = {name: column for name, column in text.items() if any(column)}
    return list(text), [list(row) for row in zip(*text.values(), strict=True)]


def constants(frame: pd.DataFrame) -> str:
    """Name what all rows have in common."""
    told = []
    for name in _CONSTANT:
        values = {_plain(value) for value in frame[name]} - {""}
        if len(values) == 1:
            told.append(f"{name} {values.pop()}")
    common = common_to(frame["settings"].tolist())
    return ", ".join([*told, *common.words(), *common.notes])


def _settings_of_defenses(settings: Settings) -> str:
    """Leave out what has a column of its own, K and the training seed."""
    own = settings.without("defense.steps", "defense.training.seed")
    return ", ".join([*(word.removeprefix("defense.") for word in own.words()), *own.notes])


def _plain(value: Any) -> str:
    return "" if value is None or pd.isna(value) else str(value)


def _column(name: str) -> Callable[[Row], str]:
    return lambda row: _plain(row[name])


def _accuracy(name: str) -> Callable[[Row], str]:
    def write(row: Row) -> str:
        if pd.isna(row[name]):
            return ""
        if pd.isna(row[f"{name}_low"]):  # a mean over trainings
            spread = row.get(f"{name}_sd")
            more = "" if spread is None or pd.isna(spread) else f", sd {spread:.1f}"
            return f"{row[name]:.1f}{more}"
        return f"{row[name]:.1f} ({row[f'{name}_low']:.1f}-{row[f'{name}_high']:.1f})"

    return write


def _accuracy_alone(name: str) -> Callable[[Row], str]:
    return lambda row: "" if pd.isna(row.get(name)) else f"{row[name]:.1f}"


def _gain(row: Row) -> str:
    if pd.isna(row["gain"]):
        return ""
    if pd.isna(row["gain_low"]):  # over trainings there is a spread and no interval
        spread = f"sd {row['gain_sd']:.1f}, {row['gain_min']:+.1f} to {row['gain_max']:+.1f}"
        return f"{row['gain']:+.1f}, {spread}"
    return f"{row['gain']:+.1f} ({row['gain_low']:+.1f} to {row['gain_high']:+.1f})"


def _signed(name: str, digits: int) -> Callable[[Row], str]:
    return lambda row: "" if pd.isna(row[name]) else f"{row[name]:+.{digits}f}"


def _p_value(row: Row) -> str:
    return "" if pd.isna(row["gain_p"]) else f"{row['gain_p']:.2g}"


# Of a page: what identifies a row. `needed` adds what is missing.
_TELLS_APART = ("dataset", "norm", "eps", "classifier", "attack", "access", "defense",
                "settings", "training seed", "K", "n", "seed", "state")  # fmt: skip
_KEPT = {("attack", "attacks"), ("access", "attacks")}
_GAIN: dict[str, Callable[[Row], str]] = {
    **{name: _column(name) for name in ("dataset", "norm", "eps", "classifier", "attack")},
    **{name: _column(name) for name in ("access", "defense", "settings")},
    "training seed": lambda row: (
        f"mean of {row['seeds']}" if row["seeds"] > 1 else _plain(row["training_seed"])
    ),
    "K": _column("steps"),
    "clean": _accuracy("clean"),
    "robust": _accuracy("robust"),
    "gain": _gain,
    "p": _p_value,
    "clean gain": _signed("clean_gain", 1),
    "paired": _column("paired"),
    "paper's gain": _signed("paper", 2),
    **{name: _column(name) for name in ("n", "seed", "audit")},
    "state": _column("state"),
}
_ATTACKS: dict[str, Callable[[Row], str]] = {
    **{name: _column(name) for name in ("dataset", "norm", "eps", "classifier", "defense")},
    **{name: _column(name) for name in ("attack", "access", "settings")},
    "training seed": _column("training_seed"),
    "clean": _accuracy("clean"),
    "robust": _accuracy("robust"),
    "certified": _accuracy_alone("certified"),
    "attacked": lambda row: "" if row["attacked"] == row["n"] else _plain(row["attacked"]),
    "passes": _column("passes"),
    **{name: _column(name) for name in ("n", "seed", "audit")},
    "state": _column("state"),
}
_CLAIM: dict[str, Callable[[Row], str]] = {
    **{name: _column(name) for name in ("who", "year", "claim")},
    "access of the claim": _column("claimed_access"),
}
_LADDER: dict[str, Callable[[Row], str]] = {
    **{name: _column(name) for name in ("dataset", "norm", "eps", "classifier", "defense")},
    "settings": _column("settings"),
    **_CLAIM,
    **{name: _accuracy(name) for name in ("clean", *ladder.LEVELS)},
    "worst case": _accuracy("worst"),
    **{name: _column(name) for name in ("passes", "n", "seed", "audit", "state")},
    "note": lambda row: "" if row["state"] == "done" else _plain(row["note"]),
}
_MUSEUM: dict[str, Callable[[Row], str]] = {
    **{name: _column(name) for name in ("defense", "settings")},
    **_CLAIM,
    **{name: _column(name) for name in ("dataset", "norm", "eps", "classifier")},
    **{name: _accuracy(name) for name in ("clean", *museum.LEVELS)},
    "worst case": _accuracy("worst"),
    "least left by": lambda row: (
        f"{row['attack']}, {row['access']}" if row["state"] == "done" else ""
    ),
    **{name: _column(name) for name in ("n", "seed", "audit", "state")},
    "note": lambda row: "" if row["state"] == "done" else _plain(row["note"]),
}

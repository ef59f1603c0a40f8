"""One row per cell as plain values, with its audit and certificate.

Imports neither torch nor pandas: to print twenty rows of ten thousand cells takes less than to
import pandas. ``bench.results.table`` makes frames of these rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from bench.results.audits import DAMAGED, reports
from bench.results.cell import is_key
from bench.results.cell_row import NOT_AUDITED, said_by_cells
from bench.results.certificates import certified
from bench.results.files import written
from bench.results.index import Said
from bench.results.locks import alone
from bench.results.render import columns_of, csv_text, row_labels
from bench.results.store import Store

COLUMNS = (
    "defense", "attack", "access", "norm", "eps", "dataset", "classifier", "n", "attacked",
    "seed", "draws", "judging", "noise", "audit",
    "clean", "clean_low", "clean_high", "robust", "robust_low", "robust_high",
    "certified", "clean_single", "robust_single", "clean_vote", "robust_vote",
    "passes", "forward", "backward", "memory", "seconds", "state", "note", "settings", "key",
    "classifier_checkpoint", "checkpoint", "commit", "date",
)  # fmt: skip
_ORDER = (
    "dataset", "classifier", "norm", "eps", "defense", "access", "attack", "settings", "n",
    "key",
)  # fmt: skip

Row = dict[str, Any]


def all_rows(store: Store) -> list[Row]:
    """Read every cell of a results folder to one row each, in a table's order."""
    return _rows(store, said_by_cells(store))


def newest_rows(store: Store, most: int) -> tuple[list[Row], int]:
    """Read the cells that were written last, and the damaged ones; say how many there are."""
    said = said_by_cells(store)
    dated = ({"key": key, "date": None, **one.row} for key, one in said.items())
    last = last_written(dated, store, most)
    kept = {key: one for key, one in said.items() if key in last or one.row["state"] == DAMAGED}
    return _rows(store, kept), len(said)


def _rows(store: Store, said: Mapping[str, Said]) -> list[Row]:
    rows = finished_rows(said.values(), reports(store), certified(store, said))
    return sorted(rows, key=_place)


def finished_rows(
    said: Iterable[Said], audits: Mapping[str, Any], certified: Mapping[str, float]
) -> list[Row]:
    """Add to what cells say what audits, by subject, and certificates, by key, say of them."""
    return [
        {"certified": certified.get(one.row["key"]), **one.row, **_audit(one, audits)}
        for one in said
    ]


def write_runs(store: Store) -> list[Row]:
    """Rebuild runs.csv from the cells and return its rows; raises StoreError."""
    # Under one claim: who writes last has also read last, and leaves nobody's row out.
    with alone(store.claim("runs.csv")):
        rows = all_rows(store)
        with written(store.runs) as temporary:
            temporary.write_text(csv_text(columns_of_rows(rows)))
    return rows


def whole_rows(rows: Sequence[Row]) -> list[Row]:
    """Give every row every column, in the order of a table."""
    return [{name: row.get(name) for name in COLUMNS} for row in rows]


def columns_of_rows(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Turn rows into the columns of a table."""
    return {name: [row.get(name) for row in rows] for name in COLUMNS}


def labels_of_rows(rows: Sequence[Row]) -> list[str]:
    """Name each row by defense and attack, and by what tells it from the others."""
    columns = columns_of(columns_of_rows(rows))
    del columns["state"]
    return row_labels(columns, ["defense", "attack"])


def last_written(rows: Iterable[Mapping[str, Any]], store: Store, most: int) -> set[str]:
    """Choose the cells of the latest dates, from rows with ``key``, ``date`` and ``state``."""
    found = {row["key"]: _written(row, store) for row in rows if is_key(row["key"])}
    return set(sorted(found, key=found.__getitem__)[-most:])


def _written(row: Mapping[str, Any], store: Store) -> str:
    """Date a cell: one in work by its folder, and what was skipped as the oldest of all.

    In a clone its folder has the date of the clone.
    """
    if isinstance(row["date"], str):
        return row["date"]
    if row["state"] == "skipped":
        return ""
    seconds = store.cell(row["key"]).stat().st_mtime
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _place(row: Row) -> list[tuple[bool, Any]]:
    """Sort by what rows are called; what a damaged cell does not say comes last."""
    return [(name not in row, row.get(name, 0)) for name in _ORDER]


def _audit(said: Said, audits: Mapping[str, Any]) -> Row:
    if said.row["state"] != "done":  # void means that nothing was measured: no number to judge
        return {}
    return {"audit": _audited(audits.get(said.subject or ""), said.row["robust"])}


def _audited(report: Mapping[str, Any] | None, robust: float) -> str:
    """Return what an audit makes of a row's robust accuracy in percent.

    A row above all that the audit's own attacks left is an upper bound, whatever checks say.
    """
    if report is None:
        return NOT_AUDITED
    reached = report.get("accuracy")
    if report["state"] == "stands" and (
        reached is None or robust > float(reached["robust_high"])
    ):
        return "upper bound"
    return str(report["state"])

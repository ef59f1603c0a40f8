"""Compare runs.csv with the cells that it was made from."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping

from bench.results.audits import DAMAGED
from bench.results.render import csv_text
from bench.results.store import Store
from bench.results.table import collect
from bench.verification.problem import Problem

# What later commands may change without touching the cell, or is only said of it.
_NOT_COMPARED = ("audit", "certified", "note", "settings")
_FINISHED = ("done", "void")


def runs_of(store: Store) -> Iterator[Problem]:
    """Compare the rows of finished cells; a row that is older than its cell is no fault.

    A command that runs, or was killed, has cells that are not in runs.csv yet.
    """
    if not store.runs.is_file():
        return
    try:
        # Before the cells: what is finished meanwhile is then only missing from the rows.
        said = _rows(store.runs.read_text())
    except (KeyError, OSError, ValueError, csv.Error) as error:
        again = "the next `bench run` or `bench matrix` makes it anew"
        yield Problem(True, f"runs.csv cannot be read ({error}): {again}")
        return
    found = _rows(csv_text(collect(store)))
    strange = [
        key
        for key, row in said.items()
        if row["state"] in _FINISHED and found.get(key, {}).get("state") not in _SEEN
    ]
    if strange:
        yield Problem(True, f"runs.csv has other cells than the folder: {', '.join(strange)}")
    finished = {key: row for key, row in found.items() if row["state"] in _FINISHED}
    for key in sorted(finished.keys() & said.keys()):
        if said[key]["state"] in _FINISHED and (odd := _different(said[key], finished[key])):
            yield Problem(True, f"runs.csv has other values for {key}: {', '.join(odd)}")
    late = [key for key in finished if said.get(key, {}).get("state") not in _FINISHED]
    if late:
        yield Problem(
            False,
            f"runs.csv is older than the cells {', '.join(late)}: it has no numbers of them",
        )


_SEEN = (*_FINISHED, DAMAGED)  # what is wrong with a damaged cell is said there


def _rows(text: str) -> dict[str, dict[str, str]]:
    rows = list(csv.DictReader(io.StringIO(text), strict=True))
    if any(None in row or None in row.values() for row in rows) or not text.strip():
        raise ValueError("its rows are not complete")
    if not all({"key", "state"} <= row.keys() for row in rows):
        raise ValueError("it has no column 'key' or 'state'")
    return {row["key"]: row for row in rows}


def _different(said: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    void = found["state"] == said["state"] == "void"  # which earlier versions gave numbers
    return [
        name
        for name, value in found.items()
        if name in said
        and name not in _NOT_COMPARED
        and not (void and not value)
        and not _same(said[name], value)
    ]


def _same(one: str, other: str) -> bool:
    try:
        return one == other or math.isclose(float(one), float(other), abs_tol=1e-9)
    except ValueError:
        return False

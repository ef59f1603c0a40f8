"""The cells of one run of a table, read back from the store. Imports no torch."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from types import MappingProxyType
from typing import Any

import pandas as pd

from bench.errors import StoreError
from bench.results.cell import EFFORT, asked_of, digest_of
from bench.results.digests import fault
from bench.results.files import read_json
from bench.results.rows import COLUMNS
from bench.results.settings import Settings, lookup
from bench.results.store import Store, damage
from bench.results.table import rows_of

Row = dict[str, Any]
NUMBERS = tuple(name for name in COLUMNS if name.startswith(("clean", "robust")))
_FOLDERS = re.compile(r"(?<![\w.])/(?:[\w.~-]+/)+")


class Cells:
    """Finished, failed and skipped cells of one run, in the order of the plan.

    ``rows`` are those of ``bench.results.table`` in which a cell that is not done has no
    number, and ``contents`` what the cells are, both in the order of ``keys``.
    """

    def __init__(
        self,
        store: Store,
        keys: Sequence[str],
        audits: Mapping[str, Any],
        certified: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self.store = store
        for key in keys:
            found = fault(store.cell(key))
            if found and found.startswith("cell.json"):  # it cannot be said what it is a row of
                raise damage(store.cell(key), found)
        self.contents = {key: read_json(store.cell(key) / "cell.json") for key in keys}
        self.frame = rows_of(store, list(self.contents), audits, certified)
        not_done = self.frame["state"] != "done"
        self.frame.loc[not_done, list(NUMBERS)] = float("nan")
        # Tables are shared: of a path in an error its last part is enough.
        self.frame["note"] = [_FOLDERS.sub("", note) for note in self.frame["note"]]

    def rows(self) -> list[Row]:
        """List the rows as dictionaries, with settings as data, training seed and steps."""
        found = []
        for row in records(self.frame):
            content = self.contents[row["key"]]
            found.append(
                {
                    **row,
                    "training_seed": parameter(content, "training.seed"),
                    "steps": parameter(content, "steps"),
                    "settings": Settings.read(content),
                    "keys": row["key"],
                }
            )
        return found


def records(frame: pd.DataFrame) -> list[Row]:
    """List the rows of a frame as dictionaries."""
    return [
        {str(name): value for name, value in row.items()} for row in frame.to_dict("records")
    ]


def check_present(store: Store, keys: Iterable[str], command: str) -> None:
    """Look for every cell of a table; raises StoreError naming those that are not there."""
    missing = [key for key in keys if not _present(store, key)]
    if missing:
        cells = "cell" if len(missing) == 1 else "cells"
        raise StoreError(
            f"{store.root} lacks the {cells} {', '.join(missing)} of the table: measure what "
            f"is missing with `{command}`, or restore results/cells."
        )


def _present(store: Store, key: str) -> bool:
    def has(name: str) -> bool:
        return (store.cell(key) / name).is_file()

    finished = store.outcomes(key).is_file() and has("provenance.json")
    return has("cell.json") and (finished or has("failed.json") or has("skipped.json"))


def parameter(content: Mapping[str, Any], path: str) -> Any:
    """Look up a parameter of a cell's defense, such as 'training.seed'; None if absent."""
    return lookup(content["defense"]["params"], path)


def arm(content: Mapping[str, Any], *, attack: bool, without: Iterable[str] = ()) -> str:
    """Hash what was asked of a defense, whether or not it ran: equal for cells of one arm.

    Without the attack where ``attack`` is false, and ``without`` these of the defense's
    parameters.
    """
    asked = deepcopy(asked_of(content))
    if not attack:
        asked = {name: value for name, value in asked.items() if name not in EFFORT}
    for path in without:
        *names, last = path.split(".")
        place = asked["defense"]["params"]
        for name in names:
            place = place.get(name, {}) if isinstance(place, dict) else {}
        place.pop(last, None)
    return digest_of(asked)


def grouped(rows: Iterable[Row], name: str) -> Iterator[list[Row]]:
    """Group rows by a column, groups and rows in the order in which they come."""
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(row[name], []).append(row)
    yield from groups.values()


def frame_of(rows: list[Row], columns: Sequence[str]) -> pd.DataFrame:
    """Make a table of rows in which whole numbers stay whole."""
    frame = pd.DataFrame(rows, columns=list(columns))
    for name in ("row", "column"):
        if name in frame:  # whole numbers stay whole beside a defense that has none
            frame[name] = pd.Series([row[name] for row in rows], dtype=object)
    for name in ("training_seed", "steps", "passes", "attacked", "year"):
        if name in frame:
            frame[name] = frame[name].astype("Int64")
    return frame


def command_of(words: Iterable[str]) -> str:
    """Write a command as it is typed."""
    return shlex.join(["bench", "paper", *words])

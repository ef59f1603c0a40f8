"""Which cells a page is about: their rows, their content, where they come from. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from bench.errors import StoreError, UsageError, unknown_name
from bench.results.audits import DAMAGED
from bench.results.cell import Cell
from bench.results.digests import MALFORMED
from bench.results.files import read_json
from bench.results.settings import Settings, has
from bench.results.store import Store
from bench.results.table import collect, with_worst_case


@dataclass(frozen=True)
class Asked:
    """What a page is asked to be about; None and {} accept any.

    ``settings`` has the parameters that a cell must have, of defense and classifier.
    """

    defense: str | None = None
    dataset: str | None = None
    norm: str | None = None
    eps: str | None = None
    n: int | None = None
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def takes(self, cell: Mapping[str, Any]) -> bool:
        """Whether a cell (as it was stored) is one of those."""
        fields = ("dataset", "norm", "eps", "n")
        return (
            self.defense in (None, cell["defense"]["name"])
            and all(getattr(self, name) in (None, cell[name]) for name in fields)
            and all(has(cell[part]["params"], set_) for part, set_ in self.settings.items())
        )

    def __str__(self) -> str:
        named = [self.defense, self.dataset and f"on {self.dataset}"]
        named += [f"{name} {value}" for name in ("norm", "eps", "n")
                  if (value := getattr(self, name)) is not None]  # fmt: skip
        return " ".join(filter(None, [*named, *Settings.of(self.settings).words()]))


@dataclass(frozen=True)
class Chosen:
    """The cells of a page, and ``rows`` with the worst cases; content and origin by key.

    ``unread`` are the keys of damaged cells. ``abouts`` has finished cells that can be read.
    """

    store: Store
    cells: pd.DataFrame
    rows: pd.DataFrame
    contents: Mapping[str, Mapping[str, Any]]
    abouts: Mapping[str, Mapping[str, Any]]
    unread: tuple[str, ...]

    def cell(self, key: str) -> dict[str, Any]:
        """Return a finished cell as a report reads it: its content, its key, its origin."""
        return {**self.contents[key], "key": key, "about": self.abouts[key]}


def choose(store: Store, asked: Asked) -> Chosen:
    """Read the rows of the cells that were asked for; raises UsageError where there are none.

    Damaged cells are rows without a number, as in every table.
    """
    frame = collect(store)
    if frame.empty:
        raise UsageError(
            f"there are no results in {store.root}. Make some with `bench run`, or name their "
            "folder with --results."
        )
    bad = frame["state"] == DAMAGED
    contents = contents_of(store, frame)
    taken = {key for key, cell in contents.items() if _takes(asked, cell)}
    if not taken and (str(asked) or not bad.all()):
        raise _nothing(store, asked, frame[~bad])
    frame = frame[bad | frame["key"].isin(taken)]
    contents = {key: contents[key] for key in taken}
    abouts = {}
    for key in frame["key"][frame["state"].isin(["done", "void"])]:
        about = _origin(store.cell(key)) if _readable(contents[key]) else None
        if about is not None:
            abouts[key] = about
    unread = tuple(frame["key"][frame["state"] == DAMAGED])
    return Chosen(store, frame, with_worst_case(frame, store), contents, abouts, unread)


def contents_of(store: Store, frame: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Read the content of every cell of a table that is not damaged, by key."""
    sound = frame["key"][frame["state"] != DAMAGED]
    keys = {key for joined in sound for key in joined.split()}
    return {key: read_json(store.cell(key) / "cell.json") for key in sorted(keys)}


def _takes(asked: Asked, cell: Mapping[str, Any]) -> bool:
    try:
        return asked.takes(cell)
    except MALFORMED:  # of another version
        return False


def _readable(cell: Mapping[str, Any]) -> bool:
    """Whether a cell is one of this version."""
    try:
        Cell.read(cell)
    except (*MALFORMED, UsageError):
        return False
    return True


def _origin(folder: Path) -> dict[str, Any] | None:
    """Read how a cell came about; None where another version wrote something else."""
    try:
        about = read_json(folder / "provenance.json")
        for name in ("attack passes", "flags", "versions", "devices"):
            len(about[name])
        float(about["attack seconds"]) + float(about["judge seconds"])
        " ".join([about["command"], about["date"], about["commit"] or ""])
    except (StoreError, *MALFORMED):
        return None
    return about


def _nothing(store: Store, asked: Asked, sound: pd.DataFrame) -> UsageError:
    if sound.empty:
        return UsageError(
            f"all cells in {store.root} are damaged: nothing is known of what was asked. "
            f"`bench verify {store.root}` says what changed."
        )
    for kind, name in (("defense", asked.defense), ("data set", asked.dataset)):
        there = set(sound["dataset" if kind == "data set" else kind])
        if name is not None and name not in there:
            return unknown_name(f"{kind} with results", name, there)
    return UsageError(
        f"{store.root} has no cell of what was asked ({asked or 'anything'}). See what there "
        "is with `bench table --all`, or measure it with `bench run`."
    )

"""The accuracy on the images that are judged already, for whoever waits. Imports no torch."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from typing import TypeVar

import pandas as pd

from bench.errors import StoreError
from bench.results.cell import Cell
from bench.results.progress import Work
from bench.results.stats import wilson
from bench.results.store import Store, unchecked_rows

Result = TypeVar("Result")
Count = Callable[[pd.DataFrame], int]  # the images of a shard that are right
_EVERY_S = 1.0  # between two looks into the folder: looking is not the work


def robust(rows: pd.DataFrame) -> int:
    """Count the robust images of a shard's rows."""
    return int(rows["robust"].sum())


def certified(rows: pd.DataFrame) -> int:
    """Count the images whose true class is certified within some radius."""
    return int(((rows["class"] == rows["label"]) & (rows["radius"] > 0)).sum())


def with_accuracy(
    work: Work[Result], cell: Cell, *, store: Store, count: Count = robust
) -> Work[Result]:
    """Do the work on a cell's shards, and report the share of right images so far.

    It is in percent of the images of finished shards, with its 95 % Wilson interval, under the
    name of what is counted.
    """
    shards, looked = _Shards(cell, store, count), -_EVERY_S
    with closing(work):
        while True:
            try:
                now = next(work)
            except StopIteration as stop:
                result: Result = stop.value
                return result
            if time.monotonic() - looked > _EVERY_S or now.done >= now.total:
                shards.look()
                looked = time.monotonic()
            yield replace(now, figures={**now.figures, **shards.figures()})


@dataclass
class _Shards:
    """The finished shards of a cell that were read: images, right ones, illegal ones."""

    cell: Cell
    store: Store
    count: Count
    read: dict[int, tuple[int, int, int]] = field(default_factory=dict)

    def look(self) -> None:
        """Read the shards that are new; what cannot be read is left out."""
        key = self.cell.key()
        with suppress(OSError, StoreError):
            there = set(os.listdir(self.store.cell(key) / "shards"))
            for start, stop in self.cell.shards():
                path = self.store.shard(key, start)
                if start not in self.read and path.name in there:
                    rows = unchecked_rows(path)
                    illegal = int((~rows["legal"].astype(bool)).sum()) if "legal" in rows else 0
                    # Images that cheaper attacks had broken have no rows.
                    self.read[start] = (stop - start, self.count(rows), illegal)

    def figures(self) -> Mapping[str, str]:
        """Write the accuracy; a void cell has none."""
        images, right, illegal = (
            sum(shard[column] for shard in self.read.values()) for column in range(3)
        )
        if illegal:
            return {"void": f"{illegal} images outside the ball"}
        if not images:
            return {}
        low, high = wilson(right, images)
        figure = f"{100 * right / images:.1f} ({100 * low:.1f}-{100 * high:.1f})"
        return {self.count.__name__: figure}

"""A row of the results: its numbers, its images one by one, and pictures of them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bench.interactive.question import Question
from bench.results.audits import reports
from bench.results.render import cells_as_text, shown
from bench.results.store import read_json, read_rows
from bench.results.table import rows_of


@dataclass(frozen=True)
class Row:
    """One finished cell; accuracies are in percent, as in every table."""

    key: str
    question: Question

    @functools.cached_property
    def _columns(self) -> Mapping[str, Any]:
        return {str(name): value for name, value in self.to_pandas().iloc[0].items()}

    @property
    def robust(self) -> float:
        """The share of images that are right, clean and attacked, by the vote of all draws."""
        return float(self._columns["robust"])

    @property
    def clean(self) -> float:
        """The share of clean images that are right, by the vote of all draws."""
        return float(self._columns["clean"])

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % Wilson interval of ``robust``."""
        return float(self._columns["robust_low"]), float(self._columns["robust_high"])

    @property
    def state(self) -> str:
        """``done``, or ``void`` where an image left the ball: then nothing was measured."""
        return str(self._columns["state"])

    @property
    def flags(self) -> tuple[str, ...]:
        """What the attack or the harness wants to be known beside the number."""
        path = self.question.store.cell(self.key) / "provenance.json"
        return tuple(read_json(path)["flags"])

    @functools.cached_property
    def outcomes(self) -> pd.DataFrame:
        """One line per image: distance, legal, clean, robust, votes and logits."""
        return read_rows(self.question.store.outcomes(self.key))

    def to_pandas(self) -> pd.DataFrame:
        """Return the row with the columns of runs.csv."""
        store = self.question.store
        return rows_of(store, [self.key], reports(store))

    def __repr__(self) -> str:
        columns, (low, high) = self._columns, self.interval
        void = "" if self.state == "done" else f"{self.state} ({columns['note']}): "
        return (
            f"{void}robust {self.robust:.1f} % ({low:.1f}-{high:.1f}), clean "
            f"{self.clean:.1f} %: {columns['defense']} under {columns['attack']} "
            f"({columns['access']}, {columns['norm']} {columns['eps']}), "
            f"{columns['n']} images, cell {self.key}"
        )

    def _repr_html_(self) -> str:
        page = shown(self.to_pandas())
        heads = [name.replace("_", " ") for name in page.columns]
        return str(pd.DataFrame(cells_as_text(page), columns=heads).to_html(index=False))

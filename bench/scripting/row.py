"""A row of the results: its numbers, its images one by one, and pictures of them."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from bench.errors import UsageError
from bench.experiments.prepare import prepare, resolve
from bench.figures import pictures
from bench.figures.output import render
from bench.results.audits import reports
from bench.results.certificates import certified
from bench.results.files import read_json
from bench.results.output import delivered, has_place
from bench.results.store import read_rows
from bench.results.table import rows_of
from bench.scripting.question import Question, run
from bench.verification.rejudge import read_cell
from bench.webpage.write import fragment


@dataclass(frozen=True, repr=False)
class Picture:
    """A figure as a PNG, which a notebook shows."""

    png: bytes

    def save(self, path: str | Path) -> None:
        """Write the PNG; raises BenchError where it cannot."""
        path = Path(path).expanduser()
        has_place(path)
        with delivered(path) as temporary:
            temporary.write_bytes(self.png)

    def _repr_png_(self) -> bytes:
        return self.png


@dataclass(frozen=True, repr=False, eq=False)
class Row:
    """One finished cell; accuracies are in percent, as in every table."""

    key: str
    question: Question

    @functools.cached_property
    def _columns(self) -> Mapping[str, Any]:
        return {str(name): value for name, value in self.to_pandas().iloc[0].items()}

    @property
    def robust(self) -> float:
        """The share of images that are right, clean and attacked, by the vote of all draws.

        NaN where the row is void, as ``clean`` and ``interval``.
        """
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
        """A line per image: distance, legal, clean, robust, votes and logits."""
        return read_rows(self.question.store.outcomes(self.key))

    def to_pandas(self) -> pd.DataFrame:
        """Return the row with the columns of runs.csv."""
        store = self.question.store
        return rows_of(store, [self.key], reports(store), certified(store, [self.key]))

    def images(self, indices: Sequence[int] | None = None) -> dict[str, Tensor]:
        """Return images (N, C, H, W) in [0, 1]: ``clean``, ``attacked`` and ``purified`` once.

        All of them, or those of these ``indices``; raises UsageError for one that is not there.
        """
        return self._pictured(indices)[0].stages

    def show(self, indices: Sequence[int] = (0, 1, 2, 3)) -> Picture:
        """Draw images clean, attacked and purified once, with the class each is taken for."""
        made, outcomes = self._pictured(indices)
        return Picture(
            render(lambda frame: pictures.draw(frame, made), pictures.rows(made, outcomes))
        )

    def _pictured(
        self, indices: Sequence[int] | None
    ) -> tuple[pictures.Pictured, pd.DataFrame]:
        n = len(self.outcomes)
        chosen = list(range(n)) if indices is None else [int(index) for index in indices]
        if strange := [index for index in chosen if not 0 <= index < n]:
            raise UsageError(f"there is no image {strange[0]}: give indices 0 to {n - 1}.")
        if not chosen:
            raise UsageError("give the index of one image or more.")
        with self.question.at_work() as workspace:
            work = prepare(resolve(self.question.request), workspace=workspace)
            prepared = replace(
                run(work, progress=False), cell=read_cell(workspace.store, self.key)
            )
            made = run(pictures.collect(prepared, chosen, workspace=workspace), progress=False)
        return made, self.outcomes.set_index("index", drop=False).loc[chosen]

    def __repr__(self) -> str:
        columns, (low, high) = self._columns, self.interval
        numbers = (
            f"robust {self.robust:.1f} % ({low:.1f}-{high:.1f}), clean {self.clean:.1f} %"
            if self.state == "done"
            else f"{self.state} ({columns['note']})"
        )
        return (
            f"{numbers}: {columns['defense']} under {columns['attack']} "
            f"({columns['access']}, {columns['norm']} {columns['eps']}), "
            f"{columns['n']} images, cell {self.key}"
        )

    def _repr_html_(self) -> str:
        content = read_json(self.question.store.cell(self.key) / "cell.json")
        return fragment(self.to_pandas(), {self.key: content})

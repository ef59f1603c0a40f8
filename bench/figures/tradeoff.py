"""Clean and robust accuracy over the number of purification steps. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from bench.figures.cells import Wanted, points
from bench.figures.style import colour_and_mark, legend_below, page, percent_axis
from bench.results.store import Store


def collect(store: Store, wanted: Wanted) -> pd.DataFrame:
    """Read a row per cell of a defense with ``steps``: curve, steps, clean, robust, intervals.

    Accuracies are in percent. Raises UsageError where there is no such cell.
    """
    return points(
        store, wanted, figure="tradeoff", value="steps", number=_steps, fixed=_without_steps
    )


def _steps(cell: Mapping[str, Any]) -> float | None:
    steps = cell["defense"]["params"].get("steps")
    return None if steps is None else int(steps)


def _without_steps(cell: dict[str, Any]) -> dict[str, Any]:
    params = {k: v for k, v in cell["defense"]["params"].items() if k != "steps"}
    return {**cell, "defense": {**cell["defense"], "params": params}}


def draw(frame: pd.DataFrame) -> Figure:
    """Draw a solid robust and a dashed clean curve per defense, with Wilson bands."""
    curves = frame.groupby("curve", sort=True)
    figure = page(2.4 + 0.17 * len(curves))
    axes = figure.add_subplot()
    for number, (curve, rows) in enumerate(curves):
        for share, line in (("robust", "-"), ("clean", "--")):
            label = str(curve) if share == "robust" else "_"  # one entry for both
            band(axes, rows, "steps", share, number, label=label, line=line)
    axes.plot([], [], "--", color="0.4", marker="o", mfc="white", label="dashed: clean")
    steps = sorted(set(frame["steps"]))
    few = len(steps) <= 6
    axes.xaxis.set_major_locator(FixedLocator(steps) if few else MaxNLocator(integer=True))
    axes.set_xlabel("purification steps")
    percent_axis(axes)
    legend_below(figure, axes, columns=2 if frame["curve"].str.len().max() < 24 else 1)
    return figure


def band(
    axes: Any,
    rows: pd.DataFrame,
    x: str,
    share: str,
    number: int,
    *,
    label: str,
    line: str = "-",
) -> None:
    """Draw one curve of accuracies in percent over a column x, with its interval."""
    low, high = rows[f"{share}_low"], rows[f"{share}_high"]
    chosen = colour_and_mark(number)
    colour = chosen["color"]
    filling = "white" if share == "clean" else colour
    axes.plot(
        rows[x],
        rows[share],
        line,
        label=label,
        clip_on=False,
        markerfacecolor=filling,
        **chosen,
    )
    axes.fill_between(rows[x], low, high, color=colour, alpha=0.15, linewidth=0)
    if len(rows) == 1:  # a band without width would not be seen
        axes.vlines(rows[x], low, high, color=colour, alpha=0.5)

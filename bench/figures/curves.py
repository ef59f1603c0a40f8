"""Security curves: robust accuracy over eps (Carlini et al. 2019). Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from bench.figures.cells import Wanted, points
from bench.figures.style import legend_below, page, percent_axis
from bench.figures.tradeoff import band
from bench.results.cell import Cell
from bench.results.store import Store


def collect(store: Store, wanted: Wanted) -> pd.DataFrame:
    """Read a row per cell with curve, radius, robust and its interval in percent.

    Every curve begins at radius 0 with its clean accuracy; unbounded cells are left out.
    Raises UsageError where there is no cell.
    """
    frame = points(
        store, wanted, figure="curves", value="radius", number=radius_of, fixed=without_eps
    )
    return from_zero(frame)


def from_zero(frame: pd.DataFrame) -> pd.DataFrame:
    """Let every curve begin at radius 0 with its clean accuracy."""
    starts = frame.groupby("curve", sort=False).head(1).copy()
    starts["radius"], starts["eps"] = 0.0, "0"
    for end in ("", "_low", "_high"):
        starts[f"robust{end}"] = starts[f"clean{end}"]
    both = pd.concat([starts, frame])
    return both.sort_values(["curve", "radius"], kind="stable", ignore_index=True)


def radius_of(cell: Mapping[str, Any]) -> float | None:
    """Return the radius of a cell; None where it has none to draw at."""
    eps = Cell.read(cell).threat.eps
    return float(eps) if eps else None  # 0 is the clean accuracy, which every cell has


def without_eps(cell: dict[str, Any]) -> dict[str, Any]:
    """Return what the cells of one curve have in common."""
    return {name: content for name, content in cell.items() if name != "eps"}


def draw(frame: pd.DataFrame) -> Figure:
    """Draw a curve per defense and attack, with Wilson bands."""
    curves = frame.groupby("curve", sort=True)
    figure = page(2.2 + 0.14 * len(curves))
    axes = figure.add_subplot()
    for number, (curve, rows) in enumerate(curves):
        band(axes, rows, "radius", "robust", number, label=str(curve))
    norms = "/".join(sorted(set(frame["norm"])))
    axes.set_xlabel(f"radius eps ({norms}, pixels in [0, 1])")
    axes.set_xlim(left=0)
    percent_axis(axes)
    legend_below(figure, axes, columns=2 if frame["curve"].str.len().max() < 24 else 1)
    return figure

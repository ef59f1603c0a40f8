"""How figures look: one column of a paper wide, readable in print and without colours.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLUMN = 3.4  # inches
RIGHT, WRONG = "#000000", "#D55E00"
# Okabe and Ito's colours, and marks that tell curves apart in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_STYLE: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "legend.frameon": False,
    "savefig.dpi": 300,
}


@contextmanager
def style() -> Iterator[None]:
    """Set the sizes of everything that is drawn inside, whatever the user's own settings."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def page(height: float) -> Figure:
    """Open an empty figure of a column's width and a height in inches; it needs no display."""
    return Figure(figsize=(COLUMN, height), layout="constrained")


def colour_and_mark(number: int) -> dict[str, str]:
    """Choose colour and mark of a curve by its number, another pair for each of 49."""
    lap, place = divmod(number, len(COLOURS))
    return {"color": COLOURS[place], "marker": MARKERS[(place + lap) % len(MARKERS)]}


def percent_axis(axes: Axes) -> None:
    """Make the vertical axis an accuracy in percent."""
    axes.set_ylim(-2, 102)
    axes.set_ylabel("accuracy (%)")


def legend_below(figure: Figure, axes: Axes, *, columns: int) -> None:
    """Put the legend below the axes, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)

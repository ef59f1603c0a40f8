"""A bound for robust accuracy, for continuous integration: what is below it. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.errors import UsageError

if TYPE_CHECKING:
    from bench.results.rows import Row

_NAMED = 5  # cells in a message


def parse_percent(text: str) -> float:
    """Read a bound in percent, from 0 to 100; raises UsageError."""
    try:
        bound = float(text)
    except ValueError:
        bound = math.nan
    if not 0 <= bound <= 100:  # NaN compares false
        raise UsageError(f"--fail-below is {text!a}: give a percentage from 0 to 100, as 40.")
    return bound


def is_below(robust: float | None, bound: float) -> bool:
    """Whether a robust accuracy in percent, as tables print it, is below a bound.

    That is the point with one decimal, not an end of its interval. What was not measured
    (None or NaN) is below every bound.
    """
    from bench.results.render import text_of

    said = text_of(robust)
    return not said or float(said) < bound


def shortfall(rows: Sequence[Row], bound: float) -> str | None:
    """Name the rows below a bound in one line; None where every row reaches it.

    A void, failed or damaged row reaches none. A skipped one has nothing to measure, but at
    least one row has to be measured.
    """
    from bench.results.render import text_of
    from bench.results.rows import labels_of_rows

    asked = [row for row in rows if row["state"] != "skipped"]
    if not asked:
        return f"nothing was measured, so that nothing reaches --fail-below {bound:g}."
    low = [row for row in asked if is_below(row.get("robust"), bound)]
    if not low:
        return None
    figures = (
        text_of(row["robust"]) if row["state"] == "done" else row["state"] for row in low
    )
    pairs = zip(labels_of_rows(low), figures, strict=True)
    named = [f"{label} ({figure})" for label, figure in pairs]
    more = ", ..." if len(named) > _NAMED else ""
    return (
        f"robust accuracy below {bound:g} in {len(low)} of {len(asked)} cells: "
        f"{'; '.join(named[:_NAMED])}{more}"
    )

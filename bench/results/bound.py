"""A bound for robust accuracy, for continuous integration: what is below it. No torch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bench.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

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


def is_below(robust: float, bound: float) -> bool:
    """Whether a robust accuracy in percent, as tables print it, is below a bound.

    That is the point with one decimal, not an end of its interval. What was not measured
    (NaN) is below every bound.
    """
    import pandas as pd  # here, so that `bench --help` does not wait for it

    from bench.results.render import text_of

    return not (pd.notna(robust) and float(text_of(float(robust))) >= bound)


def shortfall(rows: pd.DataFrame, bound: float) -> str | None:
    """Name the rows below a bound in one line; None where every row reaches it.

    A void, failed or damaged row reaches none. A skipped one has nothing to measure, but at
    least one row has to be measured.
    """
    from bench.results.render import columns_of, row_labels, text_of

    asked = rows[rows["state"] != "skipped"]
    if asked.empty:
        return f"nothing was measured, so that nothing reaches --fail-below {bound:g}."
    low = asked[[is_below(robust, bound) for robust in asked["robust"]]]
    if low.empty:
        return None
    labels = row_labels(columns_of(low.drop(columns="state")), ["defense", "attack"])
    figures = [
        text_of(robust) if state == "done" else state
        for robust, state in zip(low["robust"], low["state"], strict=True)
    ]
    named = [f"{label} ({figure})" for label, figure in zip(labels, figures, strict=True)]
    more = ", ..." if len(named) > _NAMED else ""
    return (
        f"robust accuracy below {bound:g} in {len(low)} of {len(asked)} cells: "
        f"{'; '.join(named[:_NAMED])}{more}"
    )

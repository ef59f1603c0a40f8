"""The paired test behind every alarm."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bench.stats import mcnemar_rises


def worsens(before: npt.ArrayLike, after: npt.ArrayLike) -> float:
    """Return McNemar's one-sided p that ``after`` loses no more images than it gains.

    ``before`` and ``after`` are booleans (N,), whether each image is robust.
    """
    was, now = np.asarray(before, dtype=bool), np.asarray(after, dtype=bool)
    return mcnemar_rises(int((was & ~now).sum()), int((~was & now).sum()))

"""The paired test behind every alarm: the same images before and after a change."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest  # type: ignore[import-untyped]


def worsens(before: ArrayLike, after: ArrayLike) -> float:
    """Return the one-sided exact p that ``after`` loses more images (N,) than it gains.

    McNemar's test: of the images whose outcome changes, half are lost by chance.
    """
    was, now = np.asarray(before, dtype=bool), np.asarray(after, dtype=bool)
    lost, gained = int((was & ~now).sum()), int((now & ~was).sum())
    if lost + gained == 0:
        return 1.0
    return float(binomtest(lost, lost + gained, alternative="greater").pvalue)

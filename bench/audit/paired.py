"""Exact tests on per-image outcomes. Imports no torch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

from bench.stats import mcnemar_rises


def worsens(before: npt.ArrayLike, after: npt.ArrayLike) -> float:
    """Return the exact one-sided p that ``after`` (N,) loses more images than it gains.

    Both say which images are right, in the same order. Under the null hypothesis an image on
    which they differ is lost or gained by the toss of a coin (McNemar).
    """
    was, now = np.asarray(before, dtype=bool), np.asarray(after, dtype=bool)
    lost, gained = int((was & ~now).sum()), int((~was & now).sum())
    return mcnemar_rises(lost, gained)


def exceeds(count: int, n: int, share: float) -> float:
    """Return the exact one-sided p that ``count`` of n images is more than a share of all."""
    if n == 0:
        return 1.0
    return float(binomtest(count, n, share, alternative="greater").pvalue)

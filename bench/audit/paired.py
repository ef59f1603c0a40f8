"""The paired test behind every alarm."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest


def worsens(before: npt.ArrayLike, after: npt.ArrayLike) -> float:
    """Return the one-sided p that images are lost as often as gained, of booleans (N,) each.

    McNemar's exact test: small where ``after`` loses more images than it gains.
    """
    was, now = np.asarray(before, dtype=bool), np.asarray(after, dtype=bool)
    lost, gained = int((was & ~now).sum()), int((~was & now).sum())
    if lost + gained == 0:
        return 1.0
    test: Any = binomtest(lost, lost + gained, alternative="greater")
    return float(test.pvalue)

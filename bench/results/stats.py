"""Statistics of accuracies and of their paired differences. Imports no torch.

Two defenses on the same images are a paired sample. Of ``n`` images, ``b`` are right under
the first only and ``c`` under the second only: these discordant pairs carry everything
that is known about the difference (b - c) / n.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from bench.errors import UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

_Z = 1.959964  # the normal quantile of a 95 % interval
_BLOCK = 2**22  # counts that the bootstrap holds at a time: 32 MiB


def wilson(successes: float, n: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a share, in [0, 1]."""
    if n == 0:
        return 0.0, 1.0
    share = successes / n
    centre = share + _Z**2 / (2 * n)
    spread = _Z * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    scale = 1 + _Z**2 / n
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def mcnemar(b: int, c: int) -> float:
    """Return the exact two-sided p-value of McNemar's test for discordant pairs b and c."""
    return min(1.0, 2 * mcnemar_rises(max(b, c), min(b, c)))


def mcnemar_rises(b: int, c: int) -> float:
    """Return the exact one-sided p-value that b, the pairs that got worse, exceeds c."""
    pairs = b + c
    term = math.comb(pairs, b)
    total = 0
    for k in range(b, pairs + 1):  # integers: no tail is lost to rounding
        total += term
        term = term * (pairs - k) // (k + 1)
    return total / (1 << pairs)


def paired_bootstrap(
    first: npt.ArrayLike, second: npt.ArrayLike, *, seed: int, resamples: int = 10_000
) -> tuple[float, float]:
    """Return the 95 % percentile interval of mean(first) - mean(second) over paired images.

    Both are (N,) in [0, 1], the interval is in [-1, 1]. It has no width where every pair
    differs by the same: take ``paired_interval`` there. Raises UsageError.
    """
    import numpy as np  # a table needs none of it

    one, two = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if one.ndim != 1 or one.shape != two.shape or not len(one):
        raise UsageError(
            f"values of shape {one.shape} and {two.shape} are no pairs: give one value per "
            "image to each, for the same images."
        )
    # Drawing images with replacement is drawing how often each distinct difference occurs.
    values, counts = np.unique(one - two, return_counts=True)
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // len(values))
    means: list[npt.NDArray[Any]] = []
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        means.append(rng.multinomial(len(one), counts / len(one), size=size) @ values)
    low, high = np.quantile(np.concatenate(means) / len(one), [0.025, 0.975])
    return float(low), float(high)


def paired_interval(b: int, c: int, n: int) -> tuple[float, float]:
    """Return the 95 % adjusted Wald interval of (b - c) / n over n pairs, in [-1, 1].

    Bonett and Price 2012, "Adjusted Wald confidence interval for a difference of binomial
    proportions based on paired data": one pair is added to b and to c, so that the interval
    keeps a width where no pair is discordant.
    """
    worse, better = (b + 1) / (n + 2), (c + 1) / (n + 2)
    centre = worse - better
    spread = _Z * math.sqrt((worse + better - centre**2) / (n + 2))
    return max(-1.0, centre - spread), min(1.0, centre + spread)


def images_needed(
    difference: float, *, discordant: float, power: float = 0.8, level: float = 0.05
) -> int:
    """Return how many paired images McNemar's two-sided test needs to find a difference.

    ``difference`` is in [-1, 1] and ``discordant`` the share of pairs that differ, at least
    as large. Connor 1987, "Sample size for testing differences in proportions for the
    paired-sample design". Raises UsageError.
    """
    alpha, beta = _quantiles(difference, power=power, level=level)
    if not abs(difference) <= discordant <= 1:
        raise UsageError(
            f"a difference of {difference:g} cannot come from a share {discordant:g} of "
            "discordant pairs: the share has to be in [|difference|, 1]."
        )
    spread = alpha * math.sqrt(discordant) + beta * math.sqrt(discordant - difference**2)
    return math.ceil((spread / difference) ** 2)


def images_needed_unpaired(
    difference: float, share: float, *, power: float = 0.8, level: float = 0.05
) -> int:
    """Return how many images each arm needs where the arms have different images.

    ``difference`` is in [-1, 1] and ``share`` the accuracy of both under the null hypothesis,
    which sets the variance. Raises UsageError.
    """
    alpha, beta = _quantiles(difference, power=power, level=level)
    if not 0 < share < 1:
        raise UsageError(f"share is {share:g}: it has to lie between 0 and 1.")
    return math.ceil(2 * share * (1 - share) * ((alpha + beta) / difference) ** 2)


def _quantiles(difference: float, *, power: float, level: float) -> tuple[float, float]:
    if not 0 < abs(difference) <= 1:
        raise UsageError(
            f"difference is {difference:g}: it has to be in [-1, 1], and no number of images "
            "finds a difference of 0."
        )
    if not (0 < level < 1 and 0 < power < 1):
        raise UsageError(
            f"power {power:g} and level {level:g} have to lie between 0 and 1, such as .8 "
            "and .05."
        )
    normal = NormalDist()
    return normal.inv_cdf(1 - level / 2), normal.inv_cdf(power)


def worsens(before: npt.ArrayLike, after: npt.ArrayLike) -> float:
    """Return the exact one-sided p that ``after`` (N,) loses more images than it gains.

    Both say which images are right, in the same order. Under the null hypothesis an image on
    which they differ is lost or gained by the toss of a coin (McNemar).
    """
    import numpy as np

    was, now = np.asarray(before, dtype=bool), np.asarray(after, dtype=bool)
    lost, gained = int((was & ~now).sum()), int((~was & now).sum())
    return mcnemar_rises(lost, gained)


def exceeds(count: int, n: int, share: float) -> float:
    """Return the exact one-sided p that ``count`` of n images is more than a share of all."""
    if n == 0:
        return 1.0
    from scipy.stats import binomtest  # slow to import, and no table needs it

    return float(binomtest(count, n, share, alternative="greater").pvalue)

"""What two sets of verdicts on the same images say of their difference. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from bench.errors import UsageError
from bench.results.stats import (
    images_needed,
    images_needed_unpaired,
    mcnemar,
    paired_bootstrap,
    paired_interval,
    wilson,
)

_LEVEL = 0.05
_FEW = 10  # discordant pairs below which resampling them says too little; with none, nothing


@dataclass(frozen=True)
class Comparison:
    """What the paired outcomes of two sides say; accuracies and intervals are in [0, 1].

    ``b`` images are robust only under the first side, ``c`` only under the second.
    ``images_needed`` is None where the difference is 0, ``unpaired`` counts the images that
    only one side has.
    """

    first: str
    second: str
    n: int
    unpaired: int
    right: tuple[int, int]
    b: int
    c: int
    interval: tuple[float, float]
    interval_method: str
    p: float
    images_needed: int | None
    joined: tuple[str, ...]
    left_out: tuple[str, ...]

    @property
    def difference(self) -> float:
        """Robust accuracy of the first side minus that of the second."""
        return (self.b - self.c) / self.n

    @property
    def significant(self) -> bool:
        """Whether McNemar's exact test rejects equality at 5 %."""
        return self.p < _LEVEL

    def canonical(self) -> dict[str, Any]:
        """Write the comparison as plain JSON values."""
        return {
            **asdict(self),
            "accuracy": [right / self.n for right in self.right],
            "accuracy_interval": [wilson(right, self.n) for right in self.right],
            "difference": self.difference,
            "significant": self.significant,
        }


def paired(
    labels: Sequence[str],
    sides: Sequence[pd.Series[bool]],
    *,
    joined: tuple[str, ...] = (),
    left_out: tuple[str, ...] = (),
) -> Comparison:
    """Pair the verdicts of two sides (bool by image index); raises UsageError.

    ``labels`` name the sides, ``joined`` and ``left_out`` the attacks behind them.
    """
    index = sides[0].index.intersection(sides[1].index)
    n = len(index)
    if not n:
        raise UsageError(f"{labels[0]} and {labels[1]} have no image in common.")
    one, two = (side.loc[index].to_numpy() for side in sides)
    b, c = int((one & ~two).sum()), int((~one & two).sum())
    few = b + c < _FEW
    low, high = paired_interval(b, c, n) if few else paired_bootstrap(one, two, seed=0)
    return Comparison(
        first=labels[0],
        second=labels[1],
        n=n,
        unpaired=sum(len(side) - n for side in sides),
        right=(int(one.sum()), int(two.sum())),
        b=b,
        c=c,
        interval=(low, high),
        interval_method="Bonett-Price" if few else "paired bootstrap",
        p=mcnemar(b, c),
        images_needed=None if b == c else images_needed((b - c) / n, discordant=(b + c) / n),
        joined=joined,
        left_out=left_out,
    )


def lines(found: Comparison) -> list[str]:
    """Write a comparison for people; no difference without its interval."""
    text = []
    for name, right in zip((found.first, found.second), found.right, strict=True):
        low, high = wilson(right, found.n)
        text.append(
            f"{name}: robust {100 * right / found.n:.1f} % ({100 * low:.1f}-{100 * high:.1f}), "
            f"{right} of {found.n}"
        )
    low, high = found.interval
    interval = f"95 % interval {100 * low:+.1f} to {100 * high:+.1f}, {found.interval_method}"
    text += [f"joined: {name}" for name in found.joined]
    text += [f"left out: {name}" for name in found.left_out]
    text += [
        f"paired images: {found.n}; not in both: {found.unpaired}",
        f"discordant pairs: {found.b} robust only under the first, {found.c} only under the "
        "second",
        f"difference: {100 * found.difference:+.1f} points ({interval})",
        f"McNemar's exact test, two-sided: p = {found.p:.2g}",
        "images needed to find a difference of this size, paired: "
        + (f"{found.images_needed} (power 80 %, level 5 %)" if found.images_needed
           else "none would do, the difference is 0"),
    ]  # fmt: skip
    verdict = "is significant" if found.significant else "is not significant"
    text.append(f"The difference {verdict} at 5 %.")
    return text


def needed_for(found: Comparison, points: float) -> dict[str, int]:
    """Return how many images a claimed difference in points needs, by design of the trial.

    Paired images differ as often as here (at least as often as the difference asks), and arms
    of their own images have the mean accuracy of here. Raises UsageError.
    """
    difference = points / 100
    share = max((found.b + found.c) / found.n, abs(difference))
    mean = sum(found.right) / (2 * found.n)
    return {
        "paired": images_needed(difference, discordant=share),
        "unpaired": images_needed_unpaired(difference, min(max(mean, 0.01), 0.99)),
    }

"""Whether two judgements of one image are the same, differ by rounding, or are different.

Random numbers are the same bits on every machine; sums in networks are not. What that moves
was measured: see "A deposit is judged again" in docs/decisions.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.results.stats import exceeds

MOVED = 1  # draws of an image that rounding may move
NEAR = 1e-3  # how near to the top a logit is that rounding may put there, by its size
IMAGES = 0.005  # the share of images of which it may
_LEVEL = 0.01  # of the exact test

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Compared:
    """Images (N,) whose votes differ at all, and by more than rounding."""

    moved: Array
    wrong: Array


def too_many(moved: int, n: int) -> bool:
    """Whether the votes of more of n images moved than rounding moves."""
    return exceeds(moved, n, IMAGES) <= _LEVEL


def compared(stored: dict[str, Array], again: dict[str, Array]) -> Compared:
    """Compare votes (N, K) int and verdicts (N,) by column, with the logits (N, K) found again.

    A verdict that does not follow from the same votes is wrong.

    Raises ValueError where the classes are not the same.
    """
    n = len(next(iter(stored.values())))
    moved, wrong = np.zeros(n, bool), np.zeros(n, bool)
    for name, logits in (("clean_votes", "clean_logits"), ("votes", "logits")):
        if name not in again:
            continue
        if stored[name].shape != again[name].shape:
            raise ValueError(f"'{name}' have {stored[name].shape[1]} classes, and judged again "
                             f"{again[name].shape[1]}")  # fmt: skip
        moved |= (stored[name] != again[name]).any(1)
        wrong |= _beyond_rounding(stored[name], again[name], again[logits])
    for name in ("clean", "robust"):
        if name in again:
            wrong |= (stored[name] != again[name]) & ~moved
    return Compared(moved, wrong)


def _beyond_rounding(stored: Array, again: Array, logits: Array) -> Array:
    """Say of each ballot (N, K) whether more draws moved than rounding moves (N,)."""
    before, after = stored.sum(1), again.sum(1)
    # Draws may have stopped earlier in one of them: its draws are the first ones of the other.
    shorter = np.where((before <= after)[:, None], stored - again, again - stored)
    far = shorter.clip(min=0).sum(1) > MOVED
    # One draw says nothing by itself: its class has to be near to the top.
    top = logits.max(1)
    elected = np.take_along_axis(logits, stored.argmax(1)[:, None], 1)[:, 0]
    away = top - elected > NEAR * np.maximum(1, np.abs(top))
    single = (before == 1) & (after == 1)
    return np.asarray(np.where(single, away, far) | (before < 1))

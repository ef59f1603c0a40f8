"""When the judge may stop drawing: exact tests on the draws that it has not taken yet.

All R draws of an image are fixed by its streams, and the first m are a random subset of them.
So whatever the R votes are, a count among the first m is hypergeometric. If the verdict of all
R draws were "wrong", at most R // 2 of them would be right: where the observed count is too
unlikely even then, the verdict is "right", and the other way round. Over all checks together
the verdict differs from that of all draws with probability LEVEL at most, for every image and
without any assumption about the defense. Imports no torch.
"""

from __future__ import annotations

import functools
from math import comb

LEVEL = 0.01  # of an image's verdict: half for its clean votes, half for the attacked ones


@functools.cache
def looks(draws: int) -> tuple[int, ...]:
    """Return the numbers of draws at which the judge checks; the last is all of them (R).

    The first check is the earliest at which unanimity can decide; each later one doubles it.
    """
    for first in range(1, draws):
        found = [first]
        while 2 * found[-1] < draws:
            found.append(2 * found[-1])
        if _tail(first, seen=first, most=draws // 2, draws=draws) <= _level(len(found)):
            return (*found, draws)
    return (draws,)


@functools.cache
def needed(taken: int, *, draws: int) -> tuple[int, int]:
    """Return the counts that decide after ``taken`` draws: for the true class, for a rival.

    The count taken + 1 cannot be reached and never decides. A tie of all draws is a loss, so
    "wrong" leaves the true class draws // 2 votes, "right" leaves a rival (draws - 1) // 2.
    """
    level = _level(len(looks(draws)) - 1)
    return (
        _critical(taken, most=draws // 2, draws=draws, level=level),
        _critical(taken, most=(draws - 1) // 2, draws=draws, level=level),
    )


def _level(early: int) -> float:
    return LEVEL / 2 / max(early, 1)


def _critical(taken: int, *, most: int, draws: int, level: float) -> int:
    for count in range(taken + 1):
        if _tail(taken, seen=count, most=most, draws=draws) <= level:
            return count
    return taken + 1


def _tail(taken: int, *, seen: int, most: int, draws: int) -> float:
    """Return the probability of ``seen`` or more marked ones among ``taken`` of ``draws``."""
    ways = sum(
        comb(most, count) * comb(draws - most, taken - count)
        for count in range(seen, taken + 1)
    )
    return ways / comb(draws, taken)

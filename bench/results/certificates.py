"""Certified radii from counted votes, and what certificates say of other cells. No torch.

Cohen, Rosenfeld and Kolter 2019, arXiv 1902.02918, section 3.2.2: ``selection`` draws choose a
class, fresh draws count how often it wins, and where the lower Clopper-Pearson bound p of its
share is above 1/2, no image within an L2 distance below sigma * Phi^-1(p) has another majority.
That holds for each image with the given confidence; the others abstain, with radius 0.

A certificate is a cell of a results folder of its own, so that no table takes it for an attack.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from bench.core.threat import Norm
from bench.errors import StoreError
from bench.results.cell import digest_of
from bench.results.files import read_json
from bench.results.store import Store, read_rows

if TYPE_CHECKING:
    import numpy.typing as npt
    import pandas as pd

    Array = npt.NDArray[Any]

CONFIDENCE = 0.999  # of each image's radius
SELECTION = 100  # draws that choose the class, n0 in the paper
NAME = "certificate"  # in the place of a cell's attack


@dataclass(frozen=True)
class Certificate:
    """A finished certificate: its key, its cell's content, and a row per image."""

    key: str
    content: Mapping[str, Any]
    rows: pd.DataFrame

    def share(self, radius: float, n: int) -> float | None:
        """Return how many of the first n images keep their true class beyond a radius.

        In percent; None where there are not as many.
        """
        if len(self.rows) < n:
            return None
        right = self.rows["class"] == self.rows["label"]
        return round(100 * float((right & (self.rows["radius"] > radius))[:n].mean()), 2)


def folder_of(store: Store) -> Store:
    """Name the results folder of the certificates within another one."""
    return Store(store.root / "certificates")


def lower_bound(successes: Array, n: Array, *, confidence: float) -> Array:
    """Return the one-sided Clopper-Pearson bounds (N,) of shares, in [0, 1]."""
    import numpy as np  # slow to import, as scipy is, and few tables need it
    from scipy.special import betaincinv

    alpha = 1 - confidence
    # A count of 0 has no beta distribution, and the bound 0.
    found = betaincinv(np.maximum(successes, 1), n - successes + 1, alpha)
    return np.where(successes > 0, found, 0.0)


def radii(
    selection: Array, votes: Array, *, sigma: float, confidence: float
) -> tuple[Array, Array]:
    """Return classes (N,) and L2 radii (N,) of images from two counts of votes (N, K)."""
    import numpy as np
    from scipy.special import ndtri

    chosen = selection.argmax(1)
    count = votes[np.arange(len(votes)), chosen]
    share = lower_bound(count, votes.sum(1), confidence=confidence)
    return chosen, np.where(share > 0.5, sigma * ndtri(np.maximum(share, 0.5)), 0.0)


def certificates(store: Store) -> Iterator[Certificate]:
    """Read the finished certificates of a results folder; damaged ones say nothing."""
    own = folder_of(store)
    for key in own.finished():
        try:
            rows = read_rows(own.outcomes(key))
            yield Certificate(key, read_json(own.cell(key) / "cell.json"), rows)
        except StoreError:
            continue  # `bench verify` says which, and why


def certified(store: Store, keys: Iterable[str]) -> dict[str, float]:
    """Return which percentage of their images is certified, for cells in a bounded L2 ball.

    Cells without a certificate on as many images are left out. Of several certificates of one
    defense the one with the most draws speaks: to take the best would be to choose by chance.
    """
    known: dict[str, list[Certificate]] = {}
    for one in certificates(store):
        known.setdefault(certified_of(one.content), []).append(one)
    found = {}
    for key in keys if known else ():
        try:
            content = read_json(store.cell(key) / "cell.json")
            if content["norm"] != Norm.L2 or content["eps"] == "inf":
                continue
            fitting = [
                one
                for one in known.get(certified_of(content), [])
                if len(one.rows) >= content["n"]
            ]
            if fitting:
                best = max(fitting, key=lambda one: (one.content["draws"], one.key))
                share = best.share(float(Fraction(content["eps"])), content["n"])
                found[key] = float(share or 0.0)
        except (StoreError, KeyError, TypeError, ValueError):
            continue  # its row says that it is damaged
    return found


def certified_of(content: Mapping[str, Any]) -> str:
    """Hash what a certificate is about: a defense and its images, of a cell's content."""
    return digest_of(
        {name: content[name] for name in ("dataset", "data", "classifier", "defense")}
    )

"""Random noise in the ball, most of it for the images that it brings nearest to an error."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bench.core.eot import averaged_loss
from bench.core.geometry import project, steepest
from bench.core.losses import margin
from bench.core.protocols import Calls, View
from bench.core.rng import Rng
from bench.core.threat import Access, Norm, ThreatModel

_LOOKS = (25, 50, 100, 200, 300, 500, 700)  # tries after which images leave
_KEEP = 0.7  # share of the images that goes on
_VOTES, _SURE = 10, 0.8  # draws that vote on a mistaken try, and the share that is enough


@dataclass(frozen=True)
class NoiseRace:
    """Best of up to ``tries`` random perturbations, each seen by one draw.

    Tries and draws are those of the attack ``noise`` with ``eot: 1``. At every look seven
    images in ten go on, those of highest margin so far: ranks suppose nothing of the margins'
    tails (successive halving, arXiv 1502.07943). An image that a try mistook leaves once 8 of
    10 fresh draws mistake it again.
    """

    revision: ClassVar[int] = 3
    norms: ClassVar[tuple[Norm, ...]] = (Norm.LINF, Norm.L2)
    accesses: ClassVar[tuple[Access, ...]] = (Access.QUERY,)
    unbounded: ClassVar[bool] = False

    tries: int

    def __call__(
        self, view: View, x: Tensor, y: Tensor, *, threat: ThreatModel, rng: Rng
    ) -> Tensor:
        """Return the noisy image (N, C, H, W) of most margin."""
        found, rows = x.clone(), torch.arange(len(x), device=x.device)
        top = torch.full_like(x[:, 0, 0, 0], -torch.inf)
        for k in range(self.tries):
            streams, here = rng[rows].fork("noise", k), x[rows]
            noise = steepest(streams.fork("direction").normal_like(here), threat.norm)
            tried = project(here + threat.radius * noise, here, threat.norm, threat.radius)
            draws = streams.fork("draws")
            seen = averaged_loss(view, tried, y[rows], loss=margin, draws=1, rng=draws).loss
            higher = seen > top[rows]
            found[rows] = torch.where(higher.reshape(-1, 1, 1, 1), tried, found[rows])
            top[rows] = torch.where(higher, seen, top[rows])
            if k + 1 in _LOOKS:  # the only place where the host waits for the device
                mistaken = (top[rows] >= 0).nonzero()[:, 0]
                votes = streams[mistaken]
                sure = _sure(view, found[rows[mistaken]], y[rows[mistaken]], votes)
                stays = torch.ones_like(rows, dtype=torch.bool)
                stays[mistaken] = ~sure
                rows = _highest(rows[stays], top)
                if len(rows) == 0:
                    break
        return found

    def calls(self, *, stochastic: bool, classes: int) -> Calls:
        """Bound the cost of one image."""
        return Calls(forward=self.tries + _VOTES * len(_LOOKS))


def _highest(rows: Tensor, top: Tensor) -> Tensor:
    """Keep of the images rows (m,) the share with the highest margins top (N,), in order."""
    ranked = rows[top[rows].argsort(descending=True, stable=True)]
    return ranked[: math.ceil(_KEEP * len(rows))].sort().values


def _sure(view: View, x: Tensor, y: Tensor, rng: Rng) -> Tensor:
    """Say of which tries x (m, C, H, W) fresh draws mistake nearly all (m,)."""
    if len(x) == 0:
        return torch.zeros_like(y, dtype=torch.bool)
    draws = _VOTES if view.stochastic else 1
    seen = averaged_loss(view, x, y, loss=margin, draws=draws, rng=rng.fork("vote"))
    return seen.wrong >= _SURE

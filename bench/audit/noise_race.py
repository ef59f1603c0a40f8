"""Random noise in the ball, for as long as it may still break an image."""

from __future__ import annotations

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

_LOOKS = (20, 50, 100, 200, 500)  # tries after which images may leave
# Deviations of the margin. Were margins normal, one image in 3,500 of those that leave would
# have been mistaken in one of 1,000 tries.
_FAR = 5.0


@dataclass(frozen=True)
class NoiseRace:
    """Best of up to ``tries`` random perturbations, each seen by one draw.

    Tries and draws are those of the attack ``noise`` with ``eot: 1``. An image that no try
    mistook leaves once the mean margin lies five of the margins' deviations below 0.
    """

    revision: ClassVar[int] = 1
    norms: ClassVar[tuple[Norm, ...]] = (Norm.LINF, Norm.L2)
    accesses: ClassVar[tuple[Access, ...]] = (Access.QUERY,)
    unbounded: ClassVar[bool] = False

    tries: int

    def __call__(
        self, view: View, x: Tensor, y: Tensor, *, threat: ThreatModel, rng: Rng
    ) -> Tensor:
        """Return the noisy image (N, C, H, W) of most margin."""
        found, rows = x.clone(), torch.arange(len(x), device=x.device)
        top, margins = torch.full_like(x[:, 0, 0, 0], -torch.inf), []
        for k in range(self.tries):
            streams, here = rng[rows].fork("noise", k), x[rows]
            noise = steepest(streams.fork("direction").normal_like(here), threat.norm)
            tried = project(here + threat.radius * noise, here, threat.norm, threat.radius)
            draws = streams.fork("draws")
            seen = averaged_loss(view, tried, y[rows], loss=margin, draws=1, rng=draws).loss
            higher = seen > top[rows]
            found[rows] = torch.where(higher.reshape(-1, 1, 1, 1), tried, found[rows])
            top[rows] = torch.where(higher, seen, top[rows])
            margins.append(seen)
            if k + 1 in _LOOKS:  # the only place where the host waits for the device
                all_so_far = torch.stack(margins)
                near = all_so_far.mean(0) + _FAR * all_so_far.std(0) >= 0
                stays = near | (top[rows] >= 0)
                rows, margins = rows[stays], [one[stays] for one in margins]
                if len(rows) == 0:
                    break
        return found

    def calls(self, *, stochastic: bool, classes: int) -> Calls:
        """Bound the cost of one image."""
        return Calls(forward=self.tries)

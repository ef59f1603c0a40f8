"""Square with draws by need: a first look by one draw, and all draws for what passes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from bench_attacks.square import _LEAVE, Square, shifted_mass, side_of, square, stripes, tiles
from pydantic import Field
from torch import Tensor

from bench.api import Norm, Rng, ThreatModel, View, averaged_loss, margin, per_image, project


@dataclass(frozen=True)
class SquareByNeed(Square):
    """Square whose proposal gets all ``eot`` draws where its first draw beats the best so far.

    ``slack``: how far below the best so far the first draw may lie, in logits.
    """

    revision: ClassVar[int] = 1

    slack: Annotated[float, Field(ge=0)] = 0.0

    def __call__(
        self, view: View, x: Tensor, y: Tensor, *, threat: ThreatModel, rng: Rng
    ) -> Tensor:
        """Return the best proposal (N, C, H, W) found against the labels y (N,)."""
        norm, eps = threat.norm, threat.radius
        start, move = (stripes, square) if norm is Norm.LINF else (tiles, shifted_mass)
        x_best, rows = x.clone(), torch.arange(len(x), device=x.device)
        l_best = torch.full_like(x[:, 0, 0, 0], -torch.inf)
        done = torch.zeros_like(y, dtype=torch.bool)
        more = self.eot - 1 if view.stochastic else 0
        for query in range(self.queries):
            streams = rng.fork("square", query)[rows]
            if query == 0:
                delta = start(x, eps, streams)
            else:
                side = side_of(self.p_init, query / self.queries, x.shape, norm)
                delta = move(x_best[rows] - x[rows], eps, side, streams)
            x_new = project(x[rows] + delta, x[rows], norm, eps)
            draws = streams.fork("draws")
            look = averaged_loss(view, x_new, y[rows], loss=margin, draws=1, rng=draws)
            loss, wrong = look.loss.clone(), look.wrong.clone()
            passed = (loss > l_best[rows] - self.slack).nonzero()[:, 0]
            if more and len(passed):
                rest = averaged_loss(
                    view, x_new[passed], y[rows[passed]], loss=margin, draws=more,
                    rng=draws[passed].fork("more"),
                )  # fmt: skip
                loss[passed] = (loss[passed] + more * rest.loss) / self.eot
                wrong[passed] = (wrong[passed] + more * rest.wrong) / self.eot
            seen = torch.zeros_like(done[rows])
            seen[passed] = True
            fooled = seen & (wrong == 1)
            taken = ~done[rows] & seen & (fooled | (loss > l_best[rows]))
            x_best[rows] = torch.where(per_image(taken, x_new), x_new, x_best[rows])
            l_best[rows] = torch.where(taken, loss, l_best[rows])
            done[rows] |= fooled
            if (query + 1) % _LEAVE == 0:
                rows = rows[~done[rows]]
                if len(rows) == 0:
                    break
        return x_best

"""Random noise in the ball: what an attack that learns nothing can do.

Carlini et al. 2019, "On Evaluating Adversarial Robustness", arXiv 1902.06705, advise such
sanity checks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from bench.api import (
    LOSSES,
    Access,
    Ball,
    Calls,
    LossName,
    Norm,
    Rng,
    ThreatModel,
    View,
    averaged_loss,
    steepest,
)
from bench_attacks._best import Best


@dataclass(frozen=True)
class Noise:
    """Best of ``tries`` random perturbations, by the votes of ``eot`` draws and then the loss.

    Linf: corners of the ball. L2: directions of length eps, then clipped to the box. An attack
    with gradients that does not beat it is broken.
    """

    revision: ClassVar[int] = 1
    independent: ClassVar[bool] = True
    norms: ClassVar[tuple[Norm, ...]] = (Norm.LINF, Norm.L2)
    accesses: ClassVar[tuple[Access, ...]] = (Access.QUERY, Access.TRANSFER)
    unbounded: ClassVar[bool] = False

    tries: Annotated[int, Field(ge=1)] = 100
    eot: Annotated[int, Field(ge=1)] = 5
    loss: LossName = "margin"

    def __call__(
        self, view: View, x: Tensor, y: Tensor, *, threat: ThreatModel, rng: Rng
    ) -> Tensor:
        """Return the noisy image (N, C, H, W) that most draws mistake for another than y."""
        draws = self.eot if view.stochastic else 1
        best, ball = Best.nothing(x), Ball.around(x, threat.norm, threat.radius)
        for k in range(self.tries):
            streams = rng.fork("noise", k)
            # The sign of normal noise is a random corner, its direction a uniform one.
            noise = streams.fork("direction").normal_like(x)
            x_adv = ball.project(x + threat.radius * steepest(noise, threat.norm))
            seen = averaged_loss(
                view, x_adv, y, loss=LOSSES[self.loss], draws=draws, rng=streams.fork("draws")
            )
            best.offer(x_adv, seen)
        return best.x

    def calls(self, *, stochastic: bool, classes: int) -> Calls:
        """Count the cost of one image."""
        return Calls(forward=self.tries * (self.eot if stochastic else 1))

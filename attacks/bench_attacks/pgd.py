"""Projected gradient descent with expectation over the defense's draws."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from bench.api import (
    LOSSES,
    Access,
    Averaged,
    Ball,
    Calls,
    Loss,
    LossName,
    Norm,
    Rng,
    ThreatModel,
    View,
    averaged_gradient,
    averaged_loss,
    per_image,
    project,
    steepest,
)
from bench_attacks._best import Best

_LEAVE = 10  # steps between two looks at which images are done


@dataclass(frozen=True)
class Pgd:
    """PGD (Madry et al. 2018) on the loss averaged over draws (EOT, Athalye et al. 2018).

    ``steps`` T, with T + 1 evaluations; ``eot`` draws a gradient, one where the view is
    deterministic, and as many again for the choice between the best iterate and the last;
    ``step_size`` in pixels of [0, 1], None for 2.5 eps / T (Linf) or 5 eps / T (L2), and
    without a bound for that of a ball in which any image can become plain gray; ``restarts``
    from other random points of the ball where ``random_start``, from the image itself
    otherwise.
    """

    revision: ClassVar[int] = 2
    norms: ClassVar[tuple[Norm, ...]] = (Norm.LINF, Norm.L2)
    accesses: ClassVar[tuple[Access, ...]] = (Access.FULL, Access.BPDA, Access.TRANSFER)
    unbounded: ClassVar[bool] = True

    steps: Annotated[int, Field(ge=1)] = 50
    eot: Annotated[int, Field(ge=1)] = 10
    step_size: Annotated[float, Field(gt=0)] | None = None
    restarts: Annotated[int, Field(ge=1)] = 1
    random_start: bool = True
    loss: LossName = "ce"

    def __call__(
        self, view: View, x: Tensor, y: Tensor, *, threat: ThreatModel, rng: Rng
    ) -> Tensor:
        """Return the iterate (N, C, H, W) that most draws mistake for another class than y."""
        best = Best.nothing(x)
        for restart in range(self.restarts):
            streams = rng.fork("pgd", restart)
            start = random_point(x, threat, streams.fork("start")) if self.random_start else x
            ascend(
                view,
                x,
                y,
                start,
                best,
                threat=threat,
                rng=streams,
                loss=LOSSES[self.loss],
                steps=self.steps,
                draws=self.eot if view.stochastic else 1,
                step_size=self.step_size or default_step(x, threat, self.steps),
            )
        return best.x

    def calls(self, *, stochastic: bool, classes: int) -> Calls:
        """Bound the cost of one image that never leaves the batch."""
        draws = self.restarts * (self.eot if stochastic else 1)
        return Calls(forward=votes(stochastic) * draws, backward=self.steps * draws)


def ascend(
    view: View,
    x: Tensor,
    y: Tensor,
    start: Tensor,
    best: Best,
    *,
    threat: ThreatModel,
    rng: Rng,
    loss: Loss,
    steps: int,
    draws: int,
    step_size: float,
) -> None:
    """Climb the averaged loss from start (N, C, H, W) and offer what it led to to ``best``.

    That is the iterate most often wrong. Of many iterates it was the luckiest too where only a
    few draws were seen, so fresh ones, the same for both, decide between it and the last.
    """
    tried = best.undecided()
    rows, x_adv, classes, streams = tried, start[tried], y[tried], rng[tried]
    ball = Ball.around(x[tried], threat.norm, threat.radius)
    climb, climbed, last = Best.nothing(ball.x), Best.nothing(x), start.clone()
    for t in range(steps):
        if len(rows) == 0:
            break
        now = averaged_gradient(
            view, x_adv, classes, loss=loss, draws=draws, rng=streams.fork(t)
        )
        climb.offer(x_adv, now)
        x_adv = torch.add(x_adv, steepest(now.gradient, threat.norm), alpha=step_size)
        x_adv = ball.project(x_adv)
        if (t + 1) % _LEAVE == 0:
            # Images that fool every draw leave the batch. To know how many are left the host
            # waits for the device, here and nowhere else.
            climbed.put(rows, climb)
            last[rows] = x_adv
            staying = (now.wrong < 1).nonzero()[:, 0]
            rows, x_adv, climb = rows[staying], x_adv[staying], climb[staying]
            ball, classes, streams = ball[staying], classes[staying], streams[staying]

    def look(at: Tensor, rows: Tensor, stream: str | int) -> Averaged:
        streams = rng[rows].fork(stream)
        return averaged_loss(view, at, y[rows], loss=loss, draws=draws, rng=streams)

    if len(rows) > 0:
        climb.offer(x_adv, look(x_adv, rows, steps))
        climbed.put(rows, climb)
        last[rows] = x_adv
    found, climbed = best[tried], climbed[tried]
    if not view.stochastic:
        found.offer(climbed.x, climbed.seen())
    elif len(tried) > 0:
        for proposed in (last[tried], climbed.x):
            found.offer(proposed, look(proposed, tried, "again"))
    best.put(tried, found)


def votes(stochastic: bool) -> int:
    """Count the forward passes of ``ascend`` in units of its draws."""
    return 3 if stochastic else 1


def random_point(x: Tensor, threat: ThreatModel, rng: Rng) -> Tensor:
    """Draw points uniformly from the balls around x (N, C, H, W), x itself without a bound."""
    if not threat.bounded:
        return x
    if threat.norm is Norm.LINF:
        delta = threat.radius * (2 * rng.uniform_like(x) - 1)
    else:
        direction = steepest(rng.fork("direction").normal_like(x), threat.norm)
        share = rng.fork("length").uniform(()).to(x.dtype) ** (1 / x[0].numel())
        delta = threat.radius * per_image(share, x) * direction
    return project(x + delta, x, threat.norm, threat.radius)


def default_step(x: Tensor, threat: ThreatModel, steps: int) -> float:
    """Choose the step size, in pixels of [0, 1]: 2.5 radii in all, as Madry et al. advise.

    Twice that for L2, where a random start fades by 1 + step / radius a step and no faster.
    """
    radii = 2.5 if threat.norm is Norm.LINF else 5.0
    return radii * reach(x, threat) / steps


def reach(x: Tensor, threat: ThreatModel) -> float:
    """Return the radius, or that of a ball in which any image (N, C, H, W) can become gray."""
    gray = 0.5 if threat.norm is Norm.LINF else 0.5 * math.sqrt(x[0].numel())
    return threat.radius if threat.bounded else gray

"""Projected gradient descent (PGD) with expectation over the defense's draws (EOT).

PGD: Madry et al. 2018, "Towards Deep Learning Models Resistant to Adversarial Attacks", arXiv
1706.06083, section 2.1. EOT: Athalye, Engstrom, Ilyas and Kwok 2018, "Synthesizing Robust
Adversarial Examples", arXiv 1707.07397. ``_iterate`` has the three lines of PGD. What is around
them is not in the papers: images leave once they are done, and fresh draws choose the iterate.
"""

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
    Ball,
    Calls,
    Loss,
    LossName,
    Norm,
    Rng,
    ThreatModel,
    View,
    added,
    averaged_gradient,
    averaged_loss,
    per_image,
    project,
    steepest,
)
from bench_attacks._best import Best
from bench_attacks._targets import losses_of_runs, of_rows

_LEAVE = 10  # steps between two checks which images are done


@dataclass(frozen=True)
class Pgd:
    """PGD (arXiv 1706.06083) on the loss averaged over draws (EOT, arXiv 1707.07397).

    ``steps`` T, with T + 1 evaluations; ``eot`` draws a gradient, one where the view is
    deterministic, and as many again for the choice between the best iterate and the last;
    ``step_size`` in pixels of [0, 1], None for 2.5 eps / T (Linf) or 5 eps / T (L2), and
    without a bound for that of a ball in which any image can become plain gray; ``restarts``
    from other random points of the ball where ``random_start``, from the image itself
    otherwise. After them, ``targets`` more runs towards the likeliest other classes, each on
    z_t - z_y and on the images that are left.
    """

    revision: ClassVar[int] = 2
    independent: ClassVar[bool] = True
    norms: ClassVar[tuple[Norm, ...]] = (Norm.LINF, Norm.L2)
    accesses: ClassVar[tuple[Access, ...]] = (Access.FULL, Access.BPDA, Access.TRANSFER)
    unbounded: ClassVar[bool] = True

    steps: Annotated[int, Field(ge=1)] = 50
    eot: Annotated[int, Field(ge=1)] = 10
    step_size: Annotated[float, Field(gt=0)] | None = None
    restarts: Annotated[int, Field(ge=1)] = 1
    random_start: bool = True
    loss: LossName = "ce"
    targets: Annotated[int, Field(ge=0)] = added(0)

    def __call__(
        self, view: View, x: Tensor, y: Tensor, *, threat: ThreatModel, rng: Rng
    ) -> Tensor:
        """Return the iterate (N, C, H, W) that most draws mistake for another class than y."""
        best, draws = Best.nothing(x), self.eot if view.stochastic else 1
        losses = losses_of_runs(
            view,
            x,
            y,
            best,
            loss=LOSSES[self.loss],
            restarts=self.restarts,
            targets=self.targets,
            draws=draws,
            rng=rng.fork("pgd", "targets"),
        )
        for run, loss in enumerate(losses):
            streams = rng.fork("pgd", run)
            start = random_point(x, threat, streams.fork("start")) if self.random_start else x
            ascend(
                view,
                x,
                y,
                start,
                best,
                threat=threat,
                rng=streams,
                loss=loss,
                steps=self.steps,
                draws=draws,
                step_size=self.step_size or default_step(x, threat, self.steps),
            )
        return best.x

    def calls(self, *, stochastic: bool, classes: int) -> Calls:
        """Bound the cost of one image that never leaves the batch."""
        draws = self.eot if stochastic else 1
        return cost_of_runs(
            draws, steps=self.steps, restarts=self.restarts, targets=self.targets,
            stochastic=stochastic, classes=classes,
        )  # fmt: skip


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
    """Run PGD from start (N, C, H, W) and offer the better of two iterates to ``best``.

    They are the iterate that was wrong most often and the last one. Of many iterates the first
    was also the luckiest where only a few draws were seen, so fresh draws, the same for both,
    decide between them.
    """
    rows = best.undecided()
    found, labels, rng, loss = best[rows], y[rows], rng[rows], of_rows(loss, rows)
    highest, last = _iterate(
        view,
        Ball.around(x[rows], threat.norm, threat.radius),
        labels,
        start[rows],
        rng=rng,
        loss=loss,
        steps=steps,
        draws=draws,
        step_size=step_size,
    )
    if not view.stochastic:
        found.offer(highest.x, highest.seen())
    elif len(rows) > 0:
        for iterate in (last, highest.x):
            again = rng.fork("again")
            seen = averaged_loss(view, iterate, labels, loss=loss, draws=draws, rng=again)
            found.offer(iterate, seen)
    best.put(rows, found)


def _iterate(
    view: View,
    ball: Ball,
    y: Tensor,
    start: Tensor,
    *,
    rng: Rng,
    loss: Loss,
    steps: int,
    draws: int,
    step_size: float,
) -> tuple[Best, Tensor]:
    """Return the iterate of each image that was wrong most often, and the last (N, C, H, W)."""
    highest, last = Best.nothing(ball.x), start.clone()
    rows = torch.arange(len(start), device=start.device)  # the images still in the batch
    x_adv, found = start, Best.nothing(ball.x)
    for t in range(steps):
        if len(rows) == 0:
            break
        # The gradient g of the mean loss; x + a sign(g), for L2 x + a g / |g|; its projection.
        here = averaged_gradient(view, x_adv, y, loss=loss, draws=draws, rng=rng.fork(t))
        moved = torch.add(x_adv, steepest(here.gradient, ball.norm), alpha=step_size)
        x_next = ball.project(moved)

        found.offer(x_adv, here)
        x_adv = x_next
        if (t + 1) % _LEAVE == 0:
            # Images that fool every draw leave the batch. To know how many are left the host
            # waits for the device, here and nowhere else.
            highest.put(rows, found)
            last[rows] = x_adv
            staying = (here.wrong < 1).nonzero()[:, 0]
            rows, x_adv, found = rows[staying], x_adv[staying], found[staying]
            ball, y, rng = ball[staying], y[staying], rng[staying]
            loss = of_rows(loss, staying)
    if len(rows) > 0:
        end = averaged_loss(view, x_adv, y, loss=loss, draws=draws, rng=rng.fork(steps))
        found.offer(x_adv, end)
        highest.put(rows, found)
        last[rows] = x_adv
    return highest, last


def cost_of_runs(
    draws: int, *, steps: int, restarts: int, targets: int, stochastic: bool, classes: int
) -> Calls:
    """Bound the cost of runs of ``ascend`` on one image, and of the look for targets."""
    runs = restarts + min(targets, classes - 1)
    votes = 3 if stochastic else 1  # of one run, in units of its draws
    look = draws if targets else 0
    return Calls(forward=votes * runs * draws + look, backward=steps * runs * draws)


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
    """Return the step size, in pixels of [0, 1]: 2.5 radii in all, as Madry et al. 2018 do.

    Twice that for L2, where a random start fades by 1 + step / radius a step and no faster.
    """
    radii = 2.5 if threat.norm is Norm.LINF else 5.0
    return radii * reach(x, threat) / steps


def reach(x: Tensor, threat: ThreatModel) -> float:
    """Return the radius, or that of a ball in which any image (N, C, H, W) can become gray."""
    gray = 0.5 if threat.norm is Norm.LINF else 0.5 * math.sqrt(x[0].numel())
    return threat.radius if threat.bounded else gray

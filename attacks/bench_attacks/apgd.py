"""Auto-PGD whose loss, step sizes and success are all averaged over the defense's draws."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from bench.api import (
    LOSSES,
    Access,
    Averaged,
    AveragedGradient,
    Ball,
    Calls,
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
from bench_attacks._best import Best, chosen
from bench_attacks.pgd import random_point, reach

_LEAVE = 10  # steps between two looks at which images are done
_MOMENTUM = 0.75  # share of the new step; the rest repeats the last move
_RHO = 0.75  # share of rising steps that lets a step size live


@dataclass(frozen=True)
class Apgd:
    """Auto-PGD (Croce and Hein 2020, algorithm 1) on the loss averaged over ``eot`` draws.

    The library averages the gradient alone and believes one draw about loss and success; here
    all three are means over the same draws, one where the view is deterministic. Every step
    draws afresh, so that no iterate is fitted to one set of noise. The best loss so far is then
    a maximum of noisy means and a little too high; that only halves steps sooner, which is
    where a noisy ascent has to go, and Best ranks by the share of wrong draws before the loss.

    ``steps`` T, with T + 1 evaluations; ``restarts`` from other random points of the ball;
    ``loss`` with ``dlr`` needs three classes. ``warm``: the first run may start at the best
    images of cheaper attacks. ``surrogate`` f: loss, gradient and step sizes come from a
    purifier of f times fewer, coarser steps. The real view, with ``eot`` draws, then votes on
    the start, the iterates at the checkpoints and the best point of each run.
    """

    revision: ClassVar[int] = 1
    norms: ClassVar[tuple[Norm, ...]] = (Norm.LINF, Norm.L2)
    accesses: ClassVar[tuple[Access, ...]] = (Access.FULL, Access.BPDA, Access.TRANSFER)
    unbounded: ClassVar[bool] = True

    steps: Annotated[int, Field(ge=1)] = 100
    eot: Annotated[int, Field(ge=1)] = 10
    restarts: Annotated[int, Field(ge=1)] = 1
    loss: LossName = "ce"
    warm: bool = True
    surrogate: Annotated[int, Field(ge=2)] | None = None

    def __call__(
        self,
        view: View,
        x: Tensor,
        y: Tensor,
        *,
        threat: ThreatModel,
        rng: Rng,
        start: Tensor | None = None,
    ) -> Tensor:
        """Return the iterate (N, C, H, W) that most draws mistake for another class than y.

        The first run begins at ``start`` (N, C, H, W), projected into the ball, if it is given.
        """
        best = Best.nothing(x)
        for restart in range(self.restarts):
            streams = rng.fork("apgd", restart)
            if restart == 0 and start is not None:
                first = project(start, x, threat.norm, threat.radius)
            else:
                first = random_point(x, threat, streams.fork("start"))
            self._climb(view, x, y, first, best, threat=threat, rng=streams)
        return best.x

    def calls(self, *, stochastic: bool, classes: int) -> Calls:
        """Bound the cost of one image that never leaves; a surrogate counts as the whole."""
        draws = self.restarts * (self.eot if stochastic else 1)
        votes = 0 if self.surrogate is None else 2 + len(checkpoints(self.steps))
        return Calls(forward=(1 + votes) * draws, backward=self.steps * draws)

    def _climb(
        self,
        view: View,
        x: Tensor,
        y: Tensor,
        start: Tensor,
        best: Best,
        *,
        threat: ThreatModel,
        rng: Rng,
    ) -> None:
        """Run once from start (N, C, H, W), offering what was seen or voted on to ``best``."""
        draws, loss = self.eot if view.stochastic else 1, LOSSES[self.loss]
        model = view if self.surrogate is None else view.surrogate(self.surrogate)
        looks = checkpoints(self.steps)
        rows = best.undecided()
        ball = Ball.around(x[rows], threat.norm, threat.radius)
        found, classes, rng = best[rows], y[rows], rng[rows]
        climb = Climb.begin(start[rows], step=2 * reach(x, threat))
        for t in range(self.steps + 1):
            if len(rows) == 0:
                return
            if t > 0:
                climb = climb.moved(ball, share=_MOMENTUM if t > 1 else 1.0)
            ask = averaged_gradient if t < self.steps else averaged_loss
            streams = rng.fork("step", t)
            seen = ask(model, climb.x, classes, loss=loss, draws=draws, rng=streams)
            climb = climb.saw(seen)
            if self.surrogate is not None and (t == 0 or t in looks):
                streams = rng.fork("vote", t)
                vote = averaged_loss(
                    view, climb.x, classes, loss=loss, draws=draws, rng=streams
                )
                found.offer(climb.x, vote)
            elif self.surrogate is None:
                found.offer(climb.x, seen)
            if t in looks:
                climb = climb.looked_back(looks[t])
            if t > 0 and t % _LEAVE == 0:
                # As in PGD, the host waits for the device here and nowhere else.
                best.put(rows, found)
                staying = found.undecided()
                rows, climb, found = rows[staying], climb[staying], found[staying]
                ball, classes, rng = ball[staying], classes[staying], rng[staying]
        if self.surrogate is not None and len(rows) > 0:
            streams = rng.fork("vote", "best")
            vote = averaged_loss(view, climb.best, classes, loss=loss, draws=draws, rng=streams)
            found.offer(climb.best, vote)
        best.put(rows, found)


@dataclass(frozen=True)
class Climb:
    """Where each image stands: points (M, C, H, W) and numbers (M,).

    ``x`` with its ``gradient`` and ``loss``, ``before`` the point left last; ``best``, the
    point of most loss, likewise; ``step`` sizes in pixels of [0, 1]; and since the last
    checkpoint how many steps ``rose``, ``best_then`` and whether the step was ``halved`` there.
    """

    x: Tensor
    gradient: Tensor
    loss: Tensor
    before: Tensor
    best: Tensor
    best_gradient: Tensor
    best_loss: Tensor
    step: Tensor
    rose: Tensor
    best_then: Tensor
    halved: Tensor

    @classmethod
    def begin(cls, x: Tensor, *, step: float) -> Climb:
        """Stand at x (M, C, H, W), of which nothing is known yet."""
        numbers, zero = torch.zeros_like(x[:, 0, 0, 0]), torch.zeros_like(x)
        return cls(
            x=x,
            gradient=zero,
            loss=numbers + torch.inf,  # so that to have started is no rise
            before=x,
            best=x,
            best_gradient=zero,
            best_loss=numbers - torch.inf,
            step=numbers + step,
            rose=numbers,
            best_then=numbers - torch.inf,
            halved=torch.ones_like(numbers, dtype=torch.bool),
        )

    def __getitem__(self, rows: Tensor) -> Climb:
        """Keep some images, by index (m,)."""
        return Climb(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def moved(self, ball: Ball, *, share: float) -> Climb:
        """Step uphill within the balls of M images, ``1 - share`` of it as last time."""
        uphill = steepest(self.gradient, ball.norm)
        aim = ball.project(torch.addcmul(self.x, per_image(self.step, self.x), uphill))
        # x + share (aim - x) + (1 - share) (x - before)
        moved = torch.lerp(self.x, aim, share)
        moved.add_(self.x, alpha=1 - share).sub_(self.before, alpha=1 - share)
        return replace(self, x=ball.project(moved), before=self.x)

    def saw(self, seen: Averaged) -> Climb:
        """Take in what was seen at ``x``; after the last step that is no gradient."""
        gradient = seen.gradient if isinstance(seen, AveragedGradient) else self.gradient
        better = seen.loss > self.best_loss
        there = chosen(better, self.x)
        return replace(
            self,
            gradient=gradient,
            loss=seen.loss,
            best=torch.lerp(self.best, self.x, there),
            best_gradient=torch.lerp(self.best_gradient, gradient, there),
            best_loss=torch.where(better, seen.loss, self.best_loss),
            rose=self.rose + (seen.loss > self.loss),
        )

    def looked_back(self, window: int) -> Climb:
        """Halve steps that led nowhere in the last ``window`` and return those to the best."""
        oscillates = self.rose <= _RHO * window
        stands = ~self.halved & (self.best_loss <= self.best_then)
        halved = oscillates | stands
        back = chosen(halved, self.x)
        return replace(
            self,
            x=torch.lerp(self.x, self.best, back),
            gradient=torch.lerp(self.gradient, self.best_gradient, back),
            step=torch.where(halved, self.step / 2, self.step),
            rose=torch.zeros_like(self.rose),
            best_then=self.best_loss,
            halved=halved,
        )


def checkpoints(steps: int) -> dict[int, int]:
    """Map each step after which step sizes are judged to the steps since the last such one."""
    window, least, shrink = (max(int(share * steps), 1) for share in (0.22, 0.06, 0.03))
    looks, at = {}, window
    while at <= steps:
        looks[at] = window
        window = max(window - shrink, least)
        at += window
    return looks

"""Auto-PGD whose loss, step sizes and success are all averaged over the defense's draws.

Croce and Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse
parameter-free attacks", arXiv 2003.01690, section 3. Its algorithm 1, with P the projection and
dir the sign of the gradient (Linf) or g / |g| (L2):

    x(1) = P(x(0) + eta dir(0));  f_max and x_max from the better of x(0) and x(1)
    for k = 1 to N - 1:
        z = P(x(k) + eta dir(k))
        x(k+1) = P(x(k) + alpha (z - x(k)) + (1 - alpha) (x(k) - x(k-1)))
        if f(x(k+1)) > f_max:  x_max = x(k+1);  f_max = f(x(k+1))
        at a checkpoint, if condition 1 or condition 2:  eta = eta / 2;  x(k+1) = x_max
"""

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
from bench_attacks._best import Best, chosen
from bench_attacks._targets import losses_of_runs, of_rows
from bench_attacks.pgd import random_point, reach

_ALPHA = 0.75  # share of the new step; the rest repeats the last move
_RHO = 0.75  # share of steps that must raise the loss for a step size to stay
_LEAVE = 10  # steps between two checks which images are done


@dataclass(frozen=True)
class Apgd:
    """Auto-PGD (Croce and Hein 2020, arXiv 2003.01690) on the loss averaged over ``eot`` draws.

    The authors' code averages only the gradient and takes loss and success from one draw; here
    all three are means over the same draws, one where the view is deterministic. Every step
    draws afresh, so that no iterate is fitted to one set of noise. f_max is then a maximum of
    noisy means and a little too high; that only halves steps sooner, which is where a noisy
    ascent has to go, and Best ranks by the share of wrong draws before the loss.

    ``steps`` N, with N + 1 evaluations and the checkpoints of the authors' code; ``restarts``
    from other random points of the ball; ``loss`` with ``dlr`` needs three classes. ``warm``:
    the first run may start at the best images of cheaper attacks. ``surrogate`` f: loss,
    gradient and step sizes come from a purifier of f times fewer, coarser steps. The real view,
    with ``eot`` draws, then votes on the start, the iterates at the checkpoints and x_max of
    each run. After the ``restarts``, ``targets`` more runs towards the likeliest other classes,
    each on z_t - z_y and on the images that are left.
    """

    revision: ClassVar[int] = 1
    independent: ClassVar[bool] = True
    norms: ClassVar[tuple[Norm, ...]] = (Norm.LINF, Norm.L2)
    accesses: ClassVar[tuple[Access, ...]] = (Access.FULL, Access.BPDA, Access.TRANSFER)
    unbounded: ClassVar[bool] = True

    steps: Annotated[int, Field(ge=1)] = 100
    eot: Annotated[int, Field(ge=1)] = 10
    restarts: Annotated[int, Field(ge=1)] = 1
    loss: LossName = "ce"
    warm: bool = True
    surrogate: Annotated[int, Field(ge=2)] | None = None
    targets: Annotated[int, Field(ge=0)] = added(0)

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
            rng=rng.fork("apgd", "targets"),
        )
        for run, loss in enumerate(losses):
            streams = rng.fork("apgd", run)
            if run == 0 and start is not None:
                first = project(start, x, threat.norm, threat.radius)
            else:
                first = random_point(x, threat, streams.fork("start"))
            self._run(view, x, y, first, best, loss=loss, threat=threat, rng=streams)
        return best.x

    def calls(self, *, stochastic: bool, classes: int) -> Calls:
        """Bound the cost of one image that never leaves; a surrogate counts as the whole."""
        runs = self.restarts + min(self.targets, classes - 1)
        draws = self.eot if stochastic else 1
        votes = 0 if self.surrogate is None else 2 + len(checkpoints(self.steps))
        look = draws if self.targets else 0
        return Calls(
            forward=(1 + votes) * runs * draws + look, backward=self.steps * runs * draws
        )

    def _run(
        self,
        view: View,
        x: Tensor,
        y: Tensor,
        start: Tensor,
        best: Best,
        *,
        loss: Loss,
        threat: ThreatModel,
        rng: Rng,
    ) -> None:
        """Run once from start (N, C, H, W), offering what was seen or voted on to ``best``."""
        draws = self.eot if view.stochastic else 1
        model = view if self.surrogate is None else view.surrogate(self.surrogate)
        windows = checkpoints(self.steps)
        rows = best.undecided()
        ball = Ball.around(x[rows], threat.norm, threat.radius)
        found, labels, rng, loss = best[rows], y[rows], rng[rows], of_rows(loss, rows)
        ascent = Ascent.begin(start[rows], eta=2 * reach(x, threat))
        for k in range(self.steps + 1):
            if len(rows) == 0:
                return
            # x(k), for which the first step has no last move to repeat
            if k > 0:
                ascent = ascent.stepped(ball, alpha=_ALPHA if k > 1 else 1.0)
            # f(x(k)) and its gradient; f_max and x_max
            ask = averaged_gradient if k < self.steps else averaged_loss
            streams = rng.fork("step", k)
            seen = ask(model, ascent.x, labels, loss=loss, draws=draws, rng=streams)
            ascent = ascent.evaluated(seen)
            # What is found counts by its wrong draws, a surrogate's by a vote of the real view
            if self.surrogate is None:
                found.offer(ascent.x, seen)
            elif k == 0 or k in windows:
                found.offer(ascent.x, self._vote(view, ascent.x, labels, rng.fork("vote", k)))
            # At a checkpoint: conditions 1 and 2
            if k in windows:
                ascent = ascent.checked(windows[k])
            if k > 0 and k % _LEAVE == 0:
                # As in PGD, the host waits for the device here and nowhere else.
                best.put(rows, found)
                staying = found.undecided()
                rows, ascent, found = rows[staying], ascent[staying], found[staying]
                ball, labels, rng = ball[staying], labels[staying], rng[staying]
                loss = of_rows(loss, staying)
        if self.surrogate is not None and len(rows) > 0:
            seen = self._vote(view, ascent.x_max, labels, rng.fork("vote", "best"))
            found.offer(ascent.x_max, seen)
        best.put(rows, found)

    def _vote(self, view: View, x: Tensor, y: Tensor, rng: Rng) -> Averaged:
        """Let the real view vote on x (M, C, H, W), for which a surrogate found the way."""
        draws = self.eot if view.stochastic else 1
        return averaged_loss(view, x, y, loss=LOSSES[self.loss], draws=draws, rng=rng)


@dataclass(frozen=True)
class Ascent:
    """The state of algorithm 1 for M images: points (M, C, H, W) and numbers (M,).

    ``x`` is x(k), with ``gradient`` and loss ``f``, and ``x_before`` x(k-1); ``x_max``, the
    point of most loss, with ``gradient_max`` and ``f_max``; ``eta`` step sizes in pixels of
    [0, 1]. Since the last checkpoint: how many steps raised f (``rises``), ``f_max_then`` and
    whether eta was ``halved`` there.
    """

    x: Tensor
    gradient: Tensor
    f: Tensor
    x_before: Tensor
    x_max: Tensor
    gradient_max: Tensor
    f_max: Tensor
    eta: Tensor
    rises: Tensor
    f_max_then: Tensor
    halved: Tensor

    @classmethod
    def begin(cls, x: Tensor, *, eta: float) -> Ascent:
        """Start at x(0) (M, C, H, W), where nothing is evaluated yet."""
        numbers, zero = torch.zeros_like(x[:, 0, 0, 0]), torch.zeros_like(x)
        return cls(
            x=x,
            gradient=zero,
            f=numbers + torch.inf,  # so that the first evaluation is no rise
            x_before=x,
            x_max=x,
            gradient_max=zero,
            f_max=numbers - torch.inf,
            eta=numbers + eta,
            rises=numbers,
            f_max_then=numbers - torch.inf,
            halved=torch.ones_like(numbers, dtype=torch.bool),  # no condition 2 at the first
        )

    def __getitem__(self, rows: Tensor) -> Ascent:
        """Keep some images, by index (m,)."""
        kept = {field.name: getattr(self, field.name)[rows] for field in fields(self)}
        return Ascent(**kept)

    def stepped(self, ball: Ball, *, alpha: float) -> Ascent:
        """Step from x(k) to x(k+1), within the balls of M images."""
        # z = P(x(k) + eta dir(k))
        direction = steepest(self.gradient, ball.norm)
        z = ball.project(torch.addcmul(self.x, per_image(self.eta, self.x), direction))
        # x(k+1) = P(x(k) + alpha (z - x(k)) + (1 - alpha) (x(k) - x(k-1)))
        moved = torch.lerp(self.x, z, alpha)
        moved.add_(self.x, alpha=1 - alpha).sub_(self.x_before, alpha=1 - alpha)
        return replace(self, x=ball.project(moved), x_before=self.x)

    def evaluated(self, seen: Averaged) -> Ascent:
        """Take f and its gradient at ``x``; after the last step there is no gradient."""
        gradient = seen.gradient if isinstance(seen, AveragedGradient) else self.gradient
        # If f(x) > f_max: x_max = x; f_max = f(x)
        higher = seen.loss > self.f_max
        there = chosen(higher, self.x)
        return replace(
            self,
            gradient=gradient,
            f=seen.loss,
            x_max=torch.lerp(self.x_max, self.x, there),
            # Not by lerp: a gradient may be infinite, and infinity times 0 would stay as NaN.
            gradient_max=torch.where(per_image(higher, gradient), gradient, self.gradient_max),
            f_max=torch.where(higher, seen.loss, self.f_max),
            rises=self.rises + (seen.loss > self.f),
        )

    def checked(self, window: int) -> Ascent:
        """Judge eta at a checkpoint, ``window`` steps after the last one."""
        # Condition 1: too few steps raised f. The paper's < is <= in the authors' code and here
        condition_1 = self.rises <= _RHO * window
        # Condition 2: neither eta nor f_max changed since the last checkpoint
        condition_2 = ~self.halved & (self.f_max <= self.f_max_then)
        # If either holds: eta = eta / 2; x = x_max
        halved = condition_1 | condition_2
        back = chosen(halved, self.x)
        return replace(
            self,
            x=torch.lerp(self.x, self.x_max, back),
            gradient=torch.where(
                per_image(halved, self.gradient), self.gradient_max, self.gradient
            ),
            eta=torch.where(halved, self.eta / 2, self.eta),
            rises=torch.zeros_like(self.rises),
            f_max_then=self.f_max,
            halved=halved,
        )


def checkpoints(steps: int) -> dict[int, int]:
    """Map each checkpoint, the number of steps before it, to the steps since the last one.

    These are the checkpoints of the authors' code, which rounds each length down. The paper has
    ceil(p_j N) with p_0 = 0, p_1 = .22 and p_(j+1) = p_j + max(p_j - p_(j-1) - .03, .06): the
    same at N = 100, but 8 in place of 5 at N = 50, and 8 in place of 14 at N = 20. What they
    break did not differ measurably (docs/decisions.md), and published cells have the code's.
    """
    window, least, shrink = (max(int(share * steps), 1) for share in (0.22, 0.06, 0.03))
    windows, at = {}, window
    while at <= steps:
        windows[at] = window
        window = max(window - shrink, least)
        at += window
    return windows

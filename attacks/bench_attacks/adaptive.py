"""The purification-aligned adaptive attack of the paper behind this project.

Hajimohammadi Tabriz, Amini and Kazemi 2026, "A novel method for training energy-based models
for efficient purification of adversarial images", Monadi 14(2), 82-97. Only its abstract was
available: an attack step, then a purification step, whose shift, times a coefficient, joins the
next attack step. What the abstract leaves open is an option here. As an algorithm box:

    dp = 0
    for t = 1 to steps:
        g  = gradient of the loss at x
        x  = x + a dir(g) + lam dp
        x  = projection of x
        dp = mean over draws of (one purification step from x) - x
    return the iterate that most draws mistake
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

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
    in_blocks,
    steepest,
)
from bench_attacks._best import Best
from bench_attacks._targets import losses_of_runs, of_rows
from bench_attacks.pgd import default_step

_STRIDE = 10  # steps between two votes: a vote costs a whole purification per draw

Form = Literal["direct", "normalised", "lagrangian"]
Through = Literal["classifier", "defense"]


@dataclass(frozen=True)
class Adaptive:
    """One attack step, one purification step, whose shift joins the next attack step.

    With dp the mean shift of one purification step over ``eot`` draws, a the step size and dir
    the sign (Linf) or g / |g| (L2), x moves by

    - ``direct``: a dir(g) + lam dp, the paper's rule;
    - ``normalised``: a dir(g) + lam a dir(dp), so that lam does not depend on the purifier's
      own step;
    - ``lagrangian``: a dir(g + lam dp). As dp = -s grad E for a Langevin step of size s, this
      is ascent on loss - lam s E.

    ``lam`` (lambda) 0 is plain PGD; sweep .1, .3, 1, 3, 10 and take the worst per image.
    ``through`` takes g at the bare classifier, or through the whole defense with ``eot`` draws.
    The iterates of every tenth step and the last are put to the vote of the whole defense, with
    ``eot`` draws. It does not differentiate through the purification steps, so it bounds
    nothing: read it beside bpda_eot and pgd. ``step_size`` in pixels of [0, 1], None for
    2.5 eps / steps (Linf) or 5 eps / steps (L2). ``targets`` more runs towards the likeliest
    other classes, each on z_t - z_y and on the images that are left.
    """

    revision: ClassVar[int] = 1
    independent: ClassVar[bool] = True
    norms: ClassVar[tuple[Norm, ...]] = (Norm.LINF, Norm.L2)
    accesses: ClassVar[tuple[Access, ...]] = (Access.BPDA, Access.FULL)
    unbounded: ClassVar[bool] = True

    steps: Annotated[int, Field(ge=1)] = 50
    eot: Annotated[int, Field(ge=1)] = 10
    lam: Annotated[float, Field(ge=0)] = 1.0
    form: Form = "direct"
    through: Through = "classifier"
    step_size: Annotated[float, Field(gt=0)] | None = None
    loss: LossName = "ce"
    targets: Annotated[int, Field(ge=0)] = added(0)

    def __call__(
        self, view: View, x: Tensor, y: Tensor, *, threat: ThreatModel, rng: Rng
    ) -> Tensor:
        """Return the voted iterate (N, C, H, W) that most draws mistake for another than y."""
        rng, draws = rng.fork("adaptive"), self.eot if view.stochastic else 1
        best = Best.nothing(x)
        losses = losses_of_runs(
            view,
            x,
            y,
            best,
            loss=LOSSES[self.loss],
            restarts=1,
            targets=self.targets,
            draws=draws,
            rng=rng.fork("targets"),
        )
        for run, loss in enumerate(losses):
            streams = rng.fork("run", run) if run else rng
            self._run(view, x, y, best, loss=loss, draws=draws, threat=threat, rng=streams)
        return best.x

    def _run(
        self,
        view: View,
        x: Tensor,
        y: Tensor,
        best: Best,
        *,
        loss: Loss,
        draws: int,
        threat: ThreatModel,
        rng: Rng,
    ) -> None:
        """Run from the images x (N, C, H, W) that are left, offering iterates to ``best``."""
        rows = best.undecided()
        x, y, rng, loss, found = x[rows], y[rows], rng[rows], of_rows(loss, rows), best[rows]
        a = self.step_size or default_step(x, threat, self.steps)
        ball = Ball.around(x, threat.norm, threat.radius)
        x_adv, dp = x, torch.zeros_like(x)
        for t in range(1, self.steps + 1):
            # g = gradient of the loss at x
            if self.through == "classifier":
                g = classifier_gradient(view, x_adv, y, loss)
            else:
                g = averaged_gradient(
                    view, x_adv, y, loss=loss, draws=draws, rng=rng.fork("gradient", t)
                ).gradient
            # x = projection of x + a dir(g) + lam dp
            x_adv = ball.project(x_adv + self._move(g, dp, a, threat.norm))
            # dp = mean over draws of (one purification step from x) - x
            dp = purification_shift(view, x_adv, draws, rng.fork("shift", t))
            # Candidates for the iterate that most draws mistake
            if t % _STRIDE == 0 or t == self.steps:
                seen = averaged_loss(
                    view, x_adv, y, loss=loss, draws=draws, rng=rng.fork("vote", t)
                )
                found.offer(x_adv, seen)
        best.put(rows, found)

    def _move(self, g: Tensor, dp: Tensor, a: float, norm: Norm) -> Tensor:
        """Combine the gradient and the last purification shift (N, C, H, W) to one step."""
        if self.form == "direct":
            return a * steepest(g, norm) + self.lam * dp
        if self.form == "normalised":
            return a * (steepest(g, norm) + self.lam * steepest(dp, norm))
        return a * steepest(g + self.lam * dp, norm)

    def calls(self, *, stochastic: bool, classes: int) -> Calls:
        """Count the cost of one image that never falls."""
        draws, runs = self.eot if stochastic else 1, 1 + min(self.targets, classes - 1)
        forward = runs * -(-self.steps // _STRIDE) * draws + (draws if self.targets else 0)
        gradients, shifts = runs * self.steps, runs * self.steps * draws
        if self.through == "classifier":
            return Calls(forward=forward, classify=gradients, steps=shifts)
        return Calls(forward=forward, backward=gradients * draws, steps=shifts)


def classifier_gradient(view: View, x: Tensor, y: Tensor, loss: Loss) -> Tensor:
    """Differentiate the loss of the bare classifier at x (N, C, H, W)."""
    leaf = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(view.classify(leaf), y).sum(), leaf)
    return gradient


def purification_shift(view: View, x: Tensor, draws: int, rng: Rng) -> Tensor:
    """Average over draws how far one purification step moves x (N, C, H, W)."""

    def of(block: slice) -> Tensor:
        here, streams = x[block], rng[block]
        shift = torch.zeros_like(here)
        for draw in range(draws):
            shift += view.purification_step(here, rng=streams.fork(draw)) - here
        return shift / draws

    return torch.cat(in_blocks(of, len(x), draws=1, device=x.device))

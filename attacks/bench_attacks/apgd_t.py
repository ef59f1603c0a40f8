"""Targeted Auto-PGD: one ascent towards each likely class, with as many draws as it needs.

Targets: Croce and Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of
diverse parameter-free attacks", arXiv 2003.01690, section 4 (APGD-T). Where two rivals are
alike, an untargeted ascent turns between them; one ascent for each rival does not.

Draws: the norm test of Byrd, Chin, Nocedal and Wu 2012, "Sample size selection in optimization
methods for machine learning", doi 10.1007/s10107-012-0572-5. The mean g of m gradients, of
variance v each, is good enough while v / m <= theta^2 |g|^2. The means g' and g'' over two
halves of the draws estimate v / m by |g' - g''|^2 / 4. Each image has an m of its own:

    for each target t, the likeliest first:
        x(0) in the ball at random
        for k = 1 to N:
            x(k), f, g by a step of APGD on z_t - z_y, with m fresh draws
            every tenth step, with two halves of the draws:
                m = m |g' - g''|^2 / (4 theta^2 |g|^2), up to a power of two, from 1 to eot
                where a draw was wrong, eot fresh draws vote; images they are sure of leave
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from bench.api import (
    Access,
    Averaged,
    AveragedGradient,
    Ball,
    Calls,
    Loss,
    Norm,
    Rng,
    ThreatModel,
    View,
    averaged_gradient,
    averaged_loss,
    margin,
    project,
)
from bench_attacks._best import Best
from bench_attacks.apgd import Ascent, checkpoints
from bench_attacks.pgd import random_point, reach

_ALPHA = 0.75  # of APGD's step
_CHECK = 10  # steps between two checks of draws and success
_THETA = 0.5  # the norm test's: the error of a mean gradient is at most half its length
_SURE = 0.8  # share of wrong votes at which an image is not attacked any more


@dataclass(frozen=True)
class ApgdT:
    """Targeted Auto-PGD (arXiv 2003.01690) with as many draws as each image's gradient needs.

    ``targets`` ascents of ``steps`` steps each, towards the classes of the largest mean logits;
    more targets than other classes are all of them. ``eot``: the most draws of a gradient, and
    the fresh draws that vote on success; one draw where the view is deterministic. ``warm``:
    the first ascent may start at the best images of cheaper attacks.
    """

    revision: ClassVar[int] = 1
    norms: ClassVar[tuple[Norm, ...]] = (Norm.LINF, Norm.L2)
    accesses: ClassVar[tuple[Access, ...]] = (Access.FULL, Access.BPDA, Access.TRANSFER)
    unbounded: ClassVar[bool] = True

    targets: Annotated[int, Field(ge=1)] = 9
    steps: Annotated[int, Field(ge=1)] = 50
    eot: Annotated[int, Field(ge=1)] = 20
    warm: bool = True

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
        """Return the voted-on iterate (N, C, H, W) that most draws mistake for another class.

        The first ascent begins at ``start`` (N, C, H, W), projected into the ball, if given.
        """
        rng, votes = rng.fork("apgd_t"), self.eot if view.stochastic else 1
        best, order = _first_look(view, x, y, votes=votes, rng=rng.fork("targets"))
        for number in range(min(self.targets, order.shape[1])):
            streams = rng.fork("target", number)
            if number == 0 and start is not None:
                first = project(start, x, threat.norm, threat.radius)
            else:
                first = random_point(x, threat, streams.fork("start"))
            rows = (best.wrong < _SURE).nonzero()[:, 0]
            ball = Ball.around(x[rows], threat.norm, threat.radius)
            found = best[rows]
            self._ascend(
                view, ball, y[rows], order[rows, number], first[rows], found,
                eta=2 * reach(x, threat), votes=votes, rng=streams[rows],
            )  # fmt: skip
            best.put(rows, found)
        return best.x

    def calls(self, *, stochastic: bool, classes: int) -> Calls:
        """Bound the cost of one image that never leaves and needs all draws."""
        draws = self.eot if stochastic else 1
        runs = min(self.targets, classes - 1)
        checks = 2 + (self.steps - 1) // _CHECK
        return Calls(
            forward=draws * (1 + runs * checks), backward=draws * runs * (self.steps + 1)
        )

    def _ascend(
        self,
        view: View,
        ball: Ball,
        y: Tensor,
        target: Tensor,
        start: Tensor,
        best: Best,
        *,
        eta: float,
        votes: int,
        rng: Rng,
    ) -> None:
        """Run APGD on M images towards target (M,), and offer what was voted on to ``best``."""
        rows = torch.arange(len(y), device=y.device)  # the images still in the batch
        found, windows = best[rows], checkpoints(self.steps)
        ascent, draws = Ascent.begin(start, eta=eta), torch.ones_like(y)
        groups = [(1, rows)]  # draws, and the images that need as many
        for k in range(self.steps + 1):
            if len(rows) == 0:
                return
            if k > 0:
                ascent = ascent.stepped(ball, alpha=_ALPHA if k > 1 else 1.0)
            check, streams = k % _CHECK == 0 or k == self.steps, rng.fork("step", k)
            if check and votes > 1:
                halves = [((number + 1) // 2, images) for number, images in groups]
                one, other = (
                    _averaged(view, ascent.x, y, target, halves, rng=streams.fork(part))
                    for part in range(2)
                )
                half = (draws + 1) // 2
                draws = _wanted(one.gradient, other.gradient, half, most=votes)
                seen = _mean(one, other)
            else:
                seen = _averaged(view, ascent.x, y, target, groups, rng=streams)
            ascent, at = ascent.evaluated(seen), ascent.x
            if k in windows:
                ascent = ascent.checked(windows[k])
            if check:
                # The host waits for the device here and nowhere else.
                doubtful = (seen.wrong > 0).nonzero()[:, 0]
                if len(doubtful) > 0:
                    part, x_adv = found[doubtful], at[doubtful]
                    fresh = rng[doubtful].fork("vote", k)
                    part.offer(x_adv, _vote(view, x_adv, y[doubtful], votes, fresh))
                    found.put(doubtful, part)
                best.put(rows, found)
                staying = (found.wrong < _SURE).nonzero()[:, 0]
                rows, ascent, found = rows[staying], ascent[staying], found[staying]
                ball, y, target = ball[staying], y[staying], target[staying]
                draws, rng = draws[staying], rng[staying]
                groups = _groups(draws)


def _first_look(
    view: View, x: Tensor, y: Tensor, *, votes: int, rng: Rng
) -> tuple[Best, Tensor]:
    """Vote on clean images (N, C, H, W); order the other classes (N, K - 1) by mean logit."""
    best = Best.nothing(x)
    with torch.no_grad():
        logits = torch.stack([view(x, rng=rng.fork(draw)) for draw in range(votes)])
    wrong = (logits.argmax(2) != y).to(x.dtype).mean(0)
    mean = logits.mean(0)
    best.offer(x, Averaged(margin(mean, y), wrong))
    others = mean.scatter(1, y[:, None], -torch.inf)
    return best, others.argsort(1, descending=True)[:, :-1]


def _vote(view: View, x: Tensor, y: Tensor, votes: int, rng: Rng) -> Averaged:
    return averaged_loss(view, x, y, loss=margin, draws=votes, rng=rng)


def _groups(draws: Tensor) -> list[tuple[int, Tensor]]:
    """Group the images of as many draws (M,): their number, and their indices (m,)."""
    return [
        (number, (draws == number).nonzero()[:, 0]) for number in sorted(set(draws.tolist()))
    ]


def _averaged(
    view: View,
    x: Tensor,
    y: Tensor,
    target: Tensor,
    groups: list[tuple[int, Tensor]],
    *,
    rng: Rng,
) -> AveragedGradient:
    """Average z_t - z_y and its gradient at x (M, C, H, W) over the draws of each group."""
    none = torch.zeros_like(x[:, 0, 0, 0])
    seen = AveragedGradient(none, none.clone(), torch.zeros_like(x))
    for number, rows in groups:
        loss = _towards(target[rows])
        part = averaged_gradient(view, x[rows], y[rows], loss=loss, draws=number, rng=rng[rows])
        seen.loss[rows], seen.wrong[rows] = part.loss, part.wrong
        seen.gradient[rows] = part.gradient
    return seen


def _wanted(one: Tensor, other: Tensor, half: Tensor, *, most: int) -> Tensor:
    """Count the draws (M,) that the norm test wants, from two means over ``half`` (M,) each."""
    error = (one - other).flatten(1).norm(dim=1) / 2
    length = ((one + other) / 2).flatten(1).norm(dim=1)
    wanted = 2 * half * (error / (_THETA * length)) ** 2
    # Where the gradient is 0, no number of draws is known to do.
    wanted = wanted.nan_to_num(nan=float(most), posinf=float(most)).clamp(1, most)
    whole: Tensor = wanted.log2().ceil().exp2().clamp(max=most).to(half.dtype)
    return whole


def _mean(one: AveragedGradient, other: AveragedGradient) -> AveragedGradient:
    return AveragedGradient(
        (one.loss + other.loss) / 2,
        (one.wrong + other.wrong) / 2,
        (one.gradient + other.gradient) / 2,
    )


def _towards(target: Tensor) -> Loss:
    """Make the loss z_t - z_y for images with a target (M,) each."""

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        wanted = target.repeat_interleave(len(logits) // max(1, len(target)))
        return (logits.gather(1, wanted[:, None]) - logits.gather(1, y[:, None]))[:, 0]

    return loss

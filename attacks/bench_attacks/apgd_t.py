"""Targeted Auto-PGD: an ascent towards each likely class, the hopeless ones given up early.

Targets: Croce and Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of
diverse parameter-free attacks", arXiv 2003.01690, section 4 (APGD-T). Where two rivals are
alike, an untargeted ascent turns between them; one ascent for each rival does not.

Successive halving: Jamieson and Talwalkar 2016, "Non-stochastic Best Arm Identification and
Hyperparameter Optimization", arXiv 1502.07943. All ascents of an image begin side by side, and
every tenth step the third with most loss goes on (a third as in Hyperband, arXiv 1603.06560).

Draws: the norm test of Byrd, Chin, Nocedal and Wu 2012, "Sample size selection in optimization
methods for machine learning", doi 10.1007/s10107-012-0572-5. The mean g of m gradients, of
variance v each, is good enough while v / m <= theta^2 |g|^2. The means g' and g'' over two
halves of the draws estimate v / m by e = |g' - g''|^2 / 4, and |g|^2 by what is left of the
mean's own square without e. As an algorithm box, for each image:

    for the T likeliest targets t: x_t(0) in the ball at random, m_t = 1
    for k = 0 to N:
        x_t(k), f_t, g_t by a step of APGD on z_t - z_y, with m_t fresh draws
        every tenth step:
            m_t = m_t e / (theta^2 |g|^2), up to a power of two, from 1 to eot
            of the x_t that some draw mistakes, that of most loss is put to a vote of eot draws,
            where it takes half of 5 others first
            leave where the vote is sure; go on with the third of the targets with most loss
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
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
    Norm,
    Rng,
    ThreatModel,
    Towards,
    View,
    averaged_gradient,
    averaged_loss,
    margin,
    project,
)
from bench_attacks._best import Best
from bench_attacks._targets import first_look
from bench_attacks.apgd import Ascent, checkpoints
from bench_attacks.pgd import random_point, reach

_ALPHA = 0.75  # of APGD's step
_CHECK = 10  # steps between two checks of draws, targets and success
_KEEP = 3  # one of so many targets goes on at a check
_FEW = 5  # draws of a first vote
_THETA = 0.5  # the norm test's: the error of a mean gradient is at most half its length
_SURE = 0.8  # share of wrong votes at which an image is not attacked any more


@dataclass(frozen=True)
class ApgdT:
    """Targeted Auto-PGD (arXiv 2003.01690) with fewer targets and draws as it goes on.

    ``targets`` classes, those of the largest mean logits; more than there are others are all of
    them. ``steps`` N of the last target. ``eot``: the most draws of a gradient, and the fresh
    draws that vote on success; one draw where the view is deterministic. ``warm``: the ascent
    towards the likeliest class may start at the best images of cheaper attacks. ``surrogate``
    f: losses and gradients come from a purifier of f times fewer, coarser steps; the real view
    votes.
    """

    revision: ClassVar[int] = 1
    independent: ClassVar[bool] = True
    norms: ClassVar[tuple[Norm, ...]] = (Norm.LINF, Norm.L2)
    accesses: ClassVar[tuple[Access, ...]] = (Access.FULL, Access.BPDA, Access.TRANSFER)
    unbounded: ClassVar[bool] = True

    targets: Annotated[int, Field(ge=1)] = 9
    steps: Annotated[int, Field(ge=1)] = 100
    eot: Annotated[int, Field(ge=1)] = 20
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
        """Return the voted-on iterate (N, C, H, W) that most draws mistake for another class.

        Where no iterate came to a vote that is the clean image: run an untargeted ascent
        before, which offers every iterate. The ascent towards the likeliest class begins at
        ``start`` (N, C, H, W), projected.
        """
        rng, votes = rng.fork("apgd_t"), self.eot if view.stochastic else 1
        best, order = first_look(view, x, y, votes=votes, rng=rng.fork("targets"))
        runs = min(self.targets, order.shape[1])
        first = random_point(_each(x, runs), threat, rng.repeat(runs).fork("start"))
        if start is not None:
            first[::runs] = project(start, x, threat.norm, threat.radius)
        image = _each(torch.arange(len(x), device=x.device), runs)
        climbs = Climbs(
            image=image,
            target=order[:, :runs].reshape(-1),
            draws=_each(torch.ones_like(y), runs),
            ascent=Ascent.begin(first, eta=2 * reach(x, threat)),
            ball=Ball.around(_each(x, runs), threat.norm, threat.radius),
            y=_each(y, runs),
            rng=rng[image],  # the same noise for all targets, which are compared
        )
        self._climb(view, climbs, best, votes=votes, rng=rng)
        return best.x

    def calls(self, *, stochastic: bool, classes: int) -> Calls:
        """Bound the cost of one image that never leaves and needs all draws."""
        draws, runs = self.eot if stochastic else 1, min(self.targets, classes - 1)
        forward, backward = draws, 0
        for k in range(self.steps + 1):
            backward += draws * runs
            if k % _CHECK == 0 or k == self.steps:
                forward += draws + (_FEW if draws > _FEW else 0)
                runs = runs if k == 0 else -(-runs // _KEEP)
        return Calls(forward=forward, backward=backward)

    def _climb(self, view: View, climbs: Climbs, best: Best, *, votes: int, rng: Rng) -> None:
        """Run APGD on every climb, and offer what was voted on to ``best``, of N images."""
        model = view if self.surrogate is None else view.surrogate(self.surrogate)
        windows = checkpoints(self.steps)
        climbs = climbs[(best.wrong[climbs.image] < _SURE).nonzero()[:, 0]]
        groups = climbs.groups()
        for k in range(self.steps + 1):
            if len(climbs.image) == 0:
                return
            if k > 0:
                climbs = climbs.stepped(alpha=_ALPHA if k > 1 else 1.0)
            check = k % _CHECK == 0 or k == self.steps
            if check and votes > 1:
                halves = [(max(1, draws // 2), rows) for draws, rows in groups]
                one, other = (
                    _averaged(model, climbs, halves, climbs.rng.fork("step", k, part))
                    for part in range(2)
                )
                climbs = replace(climbs, draws=_wanted(one, other, climbs.draws, most=votes))
                seen = _mean(one, other)
            else:
                seen = _averaged(model, climbs, groups, climbs.rng.fork("step", k))
            at, climbs = climbs.ascent.x, climbs.evaluated(seen, windows.get(k))
            if check:
                # The host waits for the device here and nowhere else.
                rows = _hopeful(climbs.image, seen)
                images = climbs.image[rows]
                if len(rows) > 0:
                    _vote(
                        view, at[rows], climbs.y[rows], images, best, votes, rng.fork("vote", k)
                    )
                stays = best.wrong[climbs.image] < _SURE
                if k > 0:
                    stays &= _upper_third(climbs.image, climbs.ascent.f_max)
                climbs = climbs[stays.nonzero()[:, 0]]
                groups = climbs.groups()


@dataclass(frozen=True)
class Climbs:
    """M ascents, several of one image (M,), each towards its ``target`` (M,) with its draws."""

    image: Tensor
    target: Tensor
    draws: Tensor
    ascent: Ascent
    ball: Ball
    y: Tensor
    rng: Rng

    def __getitem__(self, rows: Tensor) -> Climbs:
        """Keep some of them, by index (m,)."""
        return Climbs(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def groups(self) -> list[tuple[int, Tensor]]:
        """Group those of as many draws: their number, and their indices (m,)."""
        return [
            (draws, (self.draws == draws).nonzero()[:, 0])
            for draws in sorted(set(self.draws.tolist()))
        ]

    def stepped(self, *, alpha: float) -> Climbs:
        """Take APGD's next step."""
        return replace(self, ascent=self.ascent.stepped(self.ball, alpha=alpha))

    def evaluated(self, seen: AveragedGradient, window: int | None) -> Climbs:
        """Take losses and gradients; ``window`` steps after the last checkpoint, if at one."""
        ascent = self.ascent.evaluated(seen)
        return replace(self, ascent=ascent if window is None else ascent.checked(window))


def _each(of: Tensor, times: int) -> Tensor:
    """Repeat each of N side by side, (N * times, ...)."""
    return of.repeat_interleave(times, dim=0)


def _vote(
    view: View, x: Tensor, y: Tensor, images: Tensor, best: Best, votes: int, rng: Rng
) -> None:
    """Let fresh draws vote on x (m, C, H, W), all of them where half of the first ones fall."""
    if votes > _FEW:
        few = rng[images].fork("few")
        first = averaged_loss(view, x, y, loss=margin, draws=_FEW, rng=few)
        falls = (first.wrong >= 0.5).nonzero()[:, 0]
        x, y, images = x[falls], y[falls], images[falls]
    if len(images) > 0:
        found = best[images]
        found.offer(x, averaged_loss(view, x, y, loss=margin, draws=votes, rng=rng[images]))
        best.put(images, found)


def _averaged(
    view: View, climbs: Climbs, groups: list[tuple[int, Tensor]], rng: Rng
) -> AveragedGradient:
    """Average z_t - z_y and its gradient at M points over the draws of each group."""
    x = climbs.ascent.x
    none = torch.zeros_like(x[:, 0, 0, 0])
    seen = AveragedGradient(none, none.clone(), torch.zeros_like(x))
    for draws, rows in groups:
        loss = Towards(climbs.target[rows])
        part = averaged_gradient(
            view, x[rows], climbs.y[rows], loss=loss, draws=draws, rng=rng[rows]
        )
        seen.loss[rows], seen.wrong[rows] = part.loss, part.wrong
        seen.gradient[rows] = part.gradient
    return seen


def _wanted(
    one: AveragedGradient, other: AveragedGradient, draws: Tensor, *, most: int
) -> Tensor:
    """Count the draws (M,) that the norm test wants, from means over two halves of them."""
    halves = one.gradient.flatten(1), other.gradient.flatten(1)
    error = (halves[0] - halves[1]).square().sum(1) / 4  # estimates v / m
    length = (halves[0] + halves[1]).square().sum(1) / 4 - error  # |g|^2, which noise adds to
    seen = 2 * (draws // 2).clamp_min(1)
    wanted = seen * error / (_THETA**2 * length.clamp_min(0))
    # Where the gradient is 0, no number of draws is known to do.
    wanted = wanted.nan_to_num(nan=float(most), posinf=float(most)).clamp(1, most)
    whole: Tensor = wanted.log2().ceil().exp2().clamp(max=most).to(draws.dtype)
    return whole


def _mean(one: AveragedGradient, other: AveragedGradient) -> AveragedGradient:
    return AveragedGradient(
        (one.loss + other.loss) / 2,
        (one.wrong + other.wrong) / 2,
        (one.gradient + other.gradient) / 2,
    )


def _hopeful(image: Tensor, seen: Averaged) -> Tensor:
    """Index the row of each image with most loss among those that some draw mistakes."""
    loss = seen.loss.masked_fill(seen.wrong == 0, -torch.inf)
    return ((_rank(image, loss) == 0) & (seen.wrong > 0)).nonzero()[:, 0]


def _upper_third(image: Tensor, loss: Tensor) -> Tensor:
    """Mark the third of each image's rows (M,) with most loss, and what is begun of it."""
    count = torch.bincount(image)[image]
    return _rank(image, loss) < (count + _KEEP - 1) // _KEEP


def _rank(image: Tensor, loss: Tensor) -> Tensor:
    """Count for each row (M,) those of its image with more loss; images are side by side."""
    order = loss.nan_to_num(nan=-torch.inf).argsort(descending=True, stable=True)
    order = order[image[order].argsort(stable=True)]
    first = torch.bincount(image).cumsum(0) - torch.bincount(image)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device) - first[image[order]]
    return rank

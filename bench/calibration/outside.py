"""An attack from outside: simple, with a large budget, and written without the harness.

It shares no code with the attacks or the judge, so that what both of them miss is seen. Of the
harness it takes a defense's ``purify`` and ``classify``, and the streams that ``purify`` wants.
The ascent is MI-FGSM (Dong et al. 2018, "Boosting Adversarial Attacks with Momentum", arXiv
1710.06081), once towards every other class, with a cosine step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.core.defense import Defense
from bench.core.rng import Rng


@dataclass(frozen=True)
class Effort:
    """The budget of an image: ``targets`` ascents of ``steps``, with ``draws`` each step.

    ``momentum``: share of the last direction that stays; ``first``: the first step, in radii.
    Every ``look`` steps ``votes`` fresh draws look at images that a draw was wrong about; where
    a share ``sure`` of them is wrong, the image is left alone.
    """

    targets: int = 9
    steps: int = 200
    draws: int = 2
    momentum: float = 0.75
    first: float = 0.5
    look: int = 10
    votes: int = 20
    sure: float = 0.7

    def passes(self, classes: int) -> int:
        """Bound the passes of one image through the whole defense, forwards or backwards."""
        targets = min(self.targets, classes - 1)
        looks = -(-self.steps // self.look)
        return self.votes + targets * (2 * self.steps * self.draws + looks * self.votes)


def ascend(
    defense: Defense, x: Tensor, y: Tensor, *, eps: float, effort: Effort, rng: Rng
) -> Tensor:
    """Return images (N, C, H, W) within eps (Linf) of x: those most votes were wrong about."""
    best, share = x.clone(), torch.zeros(len(x), device=x.device)
    with torch.no_grad():
        mean = _logits(defense, x, effort.votes, rng.fork("order")).mean(1)
    order = mean.scatter(1, y[:, None], -math.inf).argsort(1, descending=True)[:, :-1]
    for number in range(min(effort.targets, order.shape[1])):
        streams = rng.fork("target", number)
        rows = (share < effort.sure).nonzero()[:, 0]
        if len(rows) == 0:
            break
        origin, target = x[rows], order[rows, number]
        noise = streams[rows].fork("start").uniform_like(origin)
        now = (origin + eps * (2 * noise - 1)).clamp(0, 1)
        velocity = torch.zeros_like(now)
        for step in range(1, effort.steps + 1):
            chance = streams[rows].fork("step", step)
            gradient, doubted = _gradient(defense, now, y[rows], target, effort.draws, chance)
            length = gradient.abs().flatten(1).mean(1).clamp(min=1e-30)
            velocity = effort.momentum * velocity + gradient / length.reshape(-1, 1, 1, 1)
            if step % effort.look == 0 and bool(doubted.any()):
                wrong = _wrong(
                    defense, now[doubted], y[rows[doubted]], effort.votes,
                    streams[rows[doubted]].fork("look", step),
                )  # fmt: skip
                better = wrong > share[rows[doubted]]
                places = rows[doubted][better]
                best[places], share[places] = now[doubted][better], wrong[better]
                stay = share[rows] < effort.sure
                rows, origin, target = rows[stay], origin[stay], target[stay]
                now, velocity = now[stay], velocity[stay]
                if len(rows) == 0:
                    break
            size = effort.first * eps * (1 + math.cos(math.pi * step / effort.steps)) / 2
            now = now + size * velocity.sign()
            now = torch.minimum(torch.maximum(now, origin - eps), origin + eps).clamp(0, 1)
    return best


def broken(
    defense: Defense, x: Tensor, y: Tensor, x_adv: Tensor, *, eps: float, draws: int, rng: Rng
) -> Tensor:
    """Whether images x_adv (N, C, H, W) lie in ball and box and y has no majority: (N,)."""
    far = (x_adv.double() - x.double()).abs().flatten(1).amax(1) > eps + 1e-6
    outside = ((x_adv < 0) | (x_adv > 1)).flatten(1).any(1)
    draws = draws if defense.stochastic else 1
    rows = range(len(x))
    with torch.no_grad():
        logits = [_logits(defense, x_adv[[row]], draws, rng[row : row + 1]) for row in rows]
    seen = torch.cat(logits).argmax(2)
    counts = F.one_hot(seen, logits[0].shape[2]).sum(1)
    true = counts.gather(1, y[:, None])[:, 0]
    rival = counts.scatter(1, y[:, None], -1).amax(1)
    return (rival >= true) & ~far & ~outside


def _logits(defense: Defense, x: Tensor, draws: int, rng: Rng) -> Tensor:
    """Return the logits (N, draws, K) of several draws."""
    purified = defense.purify(x, rng=rng.repeat(draws))
    logits = defense.classify(purified)
    return logits.reshape(len(x), draws, logits.shape[1])


def _gradient(
    defense: Defense, x: Tensor, y: Tensor, target: Tensor, draws: int, rng: Rng
) -> tuple[Tensor, Tensor]:
    """Return the gradient (N, C, H, W) of the mean z_t - z_y; and where a draw is wrong (N,).

    A purifier without a gradient has that of the identity.
    """
    draws = draws if defense.stochastic else 1
    leaf = x.clone().requires_grad_()
    if defense.purifier.differentiable:
        logits = _logits(defense, leaf, draws, rng)
    else:
        with torch.no_grad():
            purified = defense.purify(x, rng=rng.repeat(draws))
        straight = leaf.repeat_interleave(draws, dim=0)
        logits = defense.classify(purified + straight - straight.detach())
        logits = logits.reshape(len(x), draws, logits.shape[1])
    rows = torch.arange(len(x), device=x.device)
    loss = (logits[rows, :, target] - logits[rows, :, y]).mean(1).sum()
    (gradient,) = torch.autograd.grad(loss, leaf)
    wrong = (logits.detach().argmax(2) != y[:, None]).any(1)
    return gradient.nan_to_num(nan=0.0), wrong


def _wrong(defense: Defense, x: Tensor, y: Tensor, votes: int, rng: Rng) -> Tensor:
    """Return the share (N,) of fresh draws that are wrong."""
    votes = votes if defense.stochastic else 1
    with torch.no_grad():
        seen = _logits(defense, x, votes, rng).argmax(2)
    return (seen != y[:, None]).float().mean(1)

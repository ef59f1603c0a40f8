"""Linear defenses with purifiers that change nothing, and their exact robust accuracy.

For a linear classifier the attacker's best move towards a rival class j is to raise
v . delta, with v = w_j - w_y, over the ball and the box [0, 1]. Linf: every pixel goes as far
as both allow. L2: by the KKT conditions delta_i = clip(t v_i, -x_i, 1 - x_i) with the one t at
which |delta| is the radius (or every pixel is at the border). Everything is float64.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from bench.core.threat import Norm
from bench.errors import BenchError

SIDE = 8
SHARES = (0.9, 0.5, 0.2)  # of the images that stay right, at the three radii
_WINDOW = 0.03  # how far a share may be missed to keep the radius away from every boundary
_SCALE = 4.0  # of the weights: margins of a few units, where float32 cross-entropy is healthy
_SHARP = 24.0  # with one clear rival, whose share of the gradient is then nearly all
_LEAD, _DEEPEST = 4.0, 8.0  # logits: the runner-up before the others, and the largest margin
_HALVINGS = 60
_SURPLUS = 12  # images drawn for one with a clear rival


@dataclass(frozen=True)
class Problem:
    """Images ``x`` (N, 1, 8, 8) of classes ``y`` (N,); ``weight`` (K, 64) and ``bias`` (K,)."""

    x: Tensor
    y: Tensor
    weight: Tensor
    bias: Tensor

    def margins(self, x: Tensor) -> Tensor:
        """Measure w_y . x + b_y - w_j . x - b_j for x (N, 1, 8, 8), (N, K), inf for j = y."""
        logits = x.double().flatten(1) @ self.weight.double().T + self.bias.double()
        margins = logits.gather(1, self.y[:, None]) - logits
        return margins.scatter(1, self.y[:, None], torch.inf)

    def optimal_margins(self, norm: Norm, eps: float) -> Tensor:
        """Return the lowest margin (N,) that any image of the ball and the box has."""
        v, x = self._directions()
        gains = largest_gain(v, x, norm, eps)
        return (self.margins(self.x) - gains).amin(1)

    def critical_radii(self, norm: Norm) -> Tensor:
        """Return the distance (N,) to the nearest point that is no longer right."""
        v, x = self._directions()
        return smallest_radius(v, x, norm, self.margins(self.x)).amin(1)

    def clear(self) -> Tensor:
        """Return which images (N,) have a runner-up by some logits, also the nearest class."""
        v, x = self._directions()
        margins = self.margins(self.x)
        two = margins.topk(2, dim=1, largest=False)
        found = (two.values[:, 1] > two.values[:, 0] + _LEAD) & (two.values[:, 0] < _DEEPEST)
        for norm in Norm:
            found &= smallest_radius(v, x, norm, margins).argmin(1) == two.indices[:, 0]
        return found

    def radii(self, norm: Norm) -> tuple[Fraction, ...]:
        """Choose the radii at which about 90, 50 and 20 % stay right, far from any tie.

        Each lies in the middle of the widest gap between two images' critical radii near the
        share, so that neither rounding nor the judge's tolerance decides about an image.
        """
        n = len(self.y)
        critical = self.critical_radii(norm).sort().values
        found = []
        for share in SHARES:
            lost, window = round((1 - share) * n), max(1, round(_WINDOW * n))
            near = critical[max(0, lost - window) : lost + window + 1]
            widest = int((near[1:] - near[:-1]).argmax())
            middle = float(near[widest : widest + 2].mean())
            found.append(Fraction(f"{middle:.4g}"))
        return tuple(found)

    def _directions(self) -> tuple[Tensor, Tensor]:
        """Return w_j - w_y (N, K, 64) and the pixels (N, 1, 64)."""
        weight = self.weight.double()
        return weight - weight[self.y][:, None], self.x.double().flatten(1)[:, None]


@functools.lru_cache(maxsize=8)
def linear_problem(*, classes: int, images: int, seed: int, clear: bool = True) -> Problem:
    """Draw a linear classifier and images that it gets right, a third of the pixels 0 or 1.

    ``clear`` keeps images whose nearest class is by far the runner-up, in both norms: there the
    loss leads to the nearest boundary, elsewhere no single ascent has to find it.
    """
    generator = torch.Generator().manual_seed(seed)
    pixels = SIDE * SIDE
    weight = (
        (_SHARP if clear else _SCALE) / SIDE * torch.randn(classes, pixels, generator=generator)
    )
    bias = -0.5 * weight.sum(1)  # no class wins everywhere
    drawn = _SURPLUS * images if clear else images
    x = (1.5 * torch.rand(drawn, pixels, generator=generator) - 0.25).clamp(0, 1)
    x = x.reshape(-1, 1, SIDE, SIDE)
    y = (x.flatten(1) @ weight.T + bias).argmax(1)
    problem = Problem(x, y, weight, bias)
    if not clear:
        return problem
    rows = problem.clear().nonzero()[:images, 0]
    if len(rows) < images:
        raise BenchError(
            f"only {len(rows)} of {drawn} images have one clear rival, {images} are asked for. "
            "Ask for fewer classes."
        )
    return Problem(x[rows], y[rows], weight, bias)


def largest_gain(v: Tensor, x: Tensor, norm: Norm, eps: float) -> Tensor:
    """Maximise v . delta over |delta| <= eps and 0 <= x + delta <= 1, v and x (..., D)."""
    a, room, high = _path(v, x, norm)
    if norm is Norm.LINF:
        t = torch.full_like(high, eps)
    else:
        t = _bisect(lambda t: _length(a, room, norm, t), torch.full_like(high, eps), high)
    return _gain(a, room, norm, t)


def smallest_radius(v: Tensor, x: Tensor, norm: Norm, gain: Tensor) -> Tensor:
    """Return the radius at which the largest gain is ``gain`` (...), inf where it never is."""
    a, room, high = _path(v, x, norm)
    t = _bisect(lambda t: _gain(a, room, norm, t), gain, high)
    reached = gain <= _gain(a, room, norm, high)
    return torch.where(reached, _length(a, room, norm, t), torch.inf)


def _path(v: Tensor, x: Tensor, norm: Norm) -> tuple[Tensor, Tensor, Tensor]:
    """Return |v|, how far each pixel can go v's way, and the t at which all are there."""
    a = v.abs()
    room = torch.where(v > 0, 1 - x, x)
    if norm is Norm.LINF:
        return a, room, torch.ones_like(a[..., 0])
    return a, room, torch.where(a > 0, room / a, 0.0).amax(-1)


def _delta(a: Tensor, room: Tensor, norm: Norm, t: Tensor) -> Tensor:
    free = t[..., None] * (torch.ones_like(a) if norm is Norm.LINF else a)
    return torch.minimum(free, room)


def _gain(a: Tensor, room: Tensor, norm: Norm, t: Tensor) -> Tensor:
    return (a * _delta(a, room, norm, t)).sum(-1)


def _length(a: Tensor, room: Tensor, norm: Norm, t: Tensor) -> Tensor:
    return t if norm is Norm.LINF else _delta(a, room, norm, t).norm(dim=-1)


def _bisect(rises: Callable[[Tensor], Tensor], target: Tensor, high: Tensor) -> Tensor:
    """Find where a rising function of t in [0, high] meets its target, else high."""
    low = torch.zeros_like(high)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        below = rises(middle) < target
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return high


def survival(margins: Tensor, *, sigma: float, length: Tensor, draws: int) -> Tensor:
    """Return the chance (N,) that a vote of ``draws`` is right, two classes under noise.

    A draw is right with p = Phi(margin / (sigma |v|)), ``length`` being |v| in L2; the vote
    with the chance that more than half the draws are. Without noise it is certain: 1 or 0.
    """
    if sigma == 0:
        return (margins > 0).double()
    p = torch.special.ndtr(margins / (sigma * length))
    return majority(p, draws)


def majority(p: Tensor, draws: int) -> Tensor:
    """Return P(Binomial(draws, p) > draws / 2) for p (N,) float64."""
    k = torch.arange(draws // 2 + 1, draws + 1, dtype=torch.float64)
    n = torch.tensor(float(draws), dtype=torch.float64)
    ways = torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
    terms = ways + torch.xlogy(k, p[:, None]) + torch.xlogy(n - k, 1 - p[:, None])
    return terms.exp().sum(1).clamp_max(1.0)

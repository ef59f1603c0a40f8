"""Square attack: random search with square-shaped moves, on the loss averaged over draws.

Andriushchenko, Croce, Flammarion and Hein 2020, "Square Attack: a query-efficient black-box
adversarial attack via random search", arXiv 1912.00049. Algorithm 1 is ``Square.__call__``,
algorithm 2 (Linf) ``square``, algorithm 3 (L2) ``shifted_mass``. Draws by need are ours.
"""

from __future__ import annotations

import functools
import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from bench.api import (
    Access,
    Averaged,
    Calls,
    Norm,
    Rng,
    ThreatModel,
    View,
    added,
    averaged_loss,
    margin,
    per_image,
    project,
    size,
    steepest,
)

_LEAVE = 50  # queries between two checks which images are done
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of p, in a run of 10,000


@dataclass(frozen=True)
class Square:
    """Square attack (arXiv 1912.00049, algorithms 1 to 3) on a whole defense.

    ``queries`` proposals an image, each seen by ``eot`` fresh draws; ``p_init`` the share of
    pixels that the first squares cover. A proposal is taken when its mean margin is the highest
    so far, or when it fools every draw, which ends the search for this image. The paper
    minimises the margin of the true class; here its negative is raised, as in every attack.
    ``by_need``: a proposal gets the other draws only where its first is higher than the best so
    far, and is dropped otherwise.
    """

    revision: ClassVar[int] = 1
    independent: ClassVar[bool] = True
    norms: ClassVar[tuple[Norm, ...]] = (Norm.LINF, Norm.L2)
    accesses: ClassVar[tuple[Access, ...]] = (Access.QUERY, Access.TRANSFER)
    unbounded: ClassVar[bool] = False

    queries: Annotated[int, Field(ge=1)] = 1000
    eot: Annotated[int, Field(ge=1)] = 10
    p_init: Annotated[float, Field(gt=0, le=1)] = 0.8
    by_need: bool = added(False)

    def __call__(
        self, view: View, x: Tensor, y: Tensor, *, threat: ThreatModel, rng: Rng
    ) -> Tensor:
        """Return the best proposal (N, C, H, W) found against the labels y (N,)."""
        norm, eps = threat.norm, threat.radius
        start, move = (stripes, square) if norm is Norm.LINF else (tiles, shifted_mass)
        x_best, rows = x.clone(), torch.arange(len(x), device=x.device)
        l_best = torch.full_like(x[:, 0, 0, 0], -torch.inf)
        done = torch.zeros_like(y, dtype=torch.bool)
        for query in range(self.queries):
            streams = rng.fork("square", query)[rows]
            if query == 0:
                delta = start(x, eps, streams)
            else:
                # h = side of the square, on a schedule; delta = move of that side at random
                side = side_of(self.p_init, query / self.queries, x.shape, norm)
                delta = move(x_best[rows] - x[rows], eps, side, streams)
            # x_new = projection onto ball and box; delta is the whole perturbation of x
            x_new = project(x[rows] + delta, x[rows], norm, eps)
            # l_new = loss at x_new, here the mean margin over the draws
            draws = streams.fork("draws")
            if self.by_need and view.stochastic and self.eot > 1:
                best = torch.where(done[rows], torch.inf, l_best[rows])
                seen = _by_need(view, x_new, y[rows], best, draws=self.eot, rng=draws)
            else:
                eot = self.eot if view.stochastic else 1
                seen = averaged_loss(view, x_new, y[rows], loss=margin, draws=eot, rng=draws)
            # If l_new is the best so far: x_best = x_new and l_best = l_new
            fooled = seen.wrong == 1
            taken = ~done[rows] & (fooled | (seen.loss > l_best[rows]))
            x_best[rows] = torch.where(per_image(taken, x_new), x_new, x_best[rows])
            l_best[rows] = torch.where(taken, seen.loss, l_best[rows])
            # Until x_best is adversarial
            done[rows] |= fooled
            if (query + 1) % _LEAVE == 0:
                rows = rows[~done[rows]]  # the only place where the host waits for the device
                if len(rows) == 0:
                    break
        return x_best

    def calls(self, *, stochastic: bool, classes: int) -> Calls:
        """Bound the cost of one image that is never broken."""
        return Calls(forward=self.queries * (self.eot if stochastic else 1))


def _by_need(
    view: View, x: Tensor, y: Tensor, best: Tensor, *, draws: int, rng: Rng
) -> Averaged:
    """Average the margins of proposals (N, C, H, W) that one draw finds better than best (N,).

    The margin of the others is -inf. The host waits for the first draw: that is less than the
    passes of the others.
    """
    first = averaged_loss(view, x, y, loss=margin, draws=1, rng=rng)
    better = (first.loss > best).nonzero()[:, 0]
    loss, wrong = torch.full_like(first.loss, -torch.inf), torch.zeros_like(first.wrong)
    if len(better):
        more, streams = draws - 1, rng[better].fork("more")
        rest = averaged_loss(view, x[better], y[better], loss=margin, draws=more, rng=streams)
        loss[better] = (first.loss[better] + more * rest.loss) / draws
        wrong[better] = (first.wrong[better] + more * rest.wrong) / draws
    return Averaged(loss, wrong)


def side_of(p_init: float, progress: float, shape: tuple[int, ...], norm: Norm) -> int:
    """Return the side h of a square, in pixels: its share p of the image halves on a schedule.

    For L2 the side is odd and at least 3, where the image has room.
    """
    height, width = shape[-2:]
    p = p_init / 2 ** bisect_left(_HALVINGS, progress * 10_000)
    side = max(1, round(math.sqrt(p * height * width)))
    if norm is Norm.L2:
        side = max(3, side) | 1  # odd, so that a bump has a middle
    return min(side, height, width)


def stripes(x: Tensor, eps: float, rng: Rng) -> Tensor:
    """Start for Linf: vertical stripes of +-eps, (N, C, H, W)."""
    return (eps * rng.sign_like(x[:, :, :1])).expand_as(x)


def square(delta: Tensor, eps: float, side: int, rng: Rng) -> Tensor:
    """Move for Linf (algorithm 2): one square per image set to +-eps, a sign per channel.

    The paper adds +-2 eps and projects: that is +-eps for every pixel of the ball.
    """
    chance = rng.uniform((2 + delta.shape[1],))
    moved = delta.clone()
    # (r, s) = uniform place of the window; rho = uniform sign of each channel
    moved[windows(delta, side, chance[:, :2])] = eps * signs(chance[:, 2:], delta)
    return moved


def tiles(x: Tensor, eps: float, rng: Rng) -> Tensor:
    """Start for L2: a grid of about 5 x 5 bumps of random sign, of length eps, (N, C, H, W)."""
    height, width = x.shape[2:]
    side = max(1, min(height, width) // 5)
    down, across = height // side, width // side
    grid = rng.sign_like(x[:, :, :down, :across])
    pattern = grid.repeat_interleave(side, 2).repeat_interleave(side, 3)
    pattern = pattern * bump(side, x).repeat(down, across)
    top, left = (height - down * side) // 2, (width - across * side) // 2
    delta = torch.zeros_like(x)
    delta[:, :, top : top + down * side, left : left + across * side] = pattern
    return eps * steepest(delta, Norm.L2)


def shifted_mass(delta: Tensor, eps: float, side: int, rng: Rng) -> Tensor:
    """Move for L2 (algorithm 3): the mass of window W2 goes to a bump in window W1."""
    channels = delta.shape[1]
    chance = rng.uniform((5 + channels,))
    # W1, W2 = windows at uniform places
    into, out_of = windows(delta, side, chance[:, :2]), windows(delta, side, chance[:, 2:4])
    # eps_avail^2 = |nu on W1 and W2|^2 + eps_unused^2 / c, where eps_unused^2 = eps^2 - |nu|^2
    either = torch.zeros_like(delta)
    either[into] = either[out_of] = 1
    mass = (delta * either).square().sum((2, 3), keepdim=True)
    unused = (eps**2 - size(delta, Norm.L2).square()).clamp_min(0)
    # nu_temp = rho eta* + nu on W1 / |nu on W1|, with eta* or its transpose and a sign rho
    pattern = bump(side, delta)
    pattern = torch.where(per_image(chance[:, 4] < 0.5, delta), pattern, pattern.T)
    # Old and new pattern weigh the same in the window, whatever mass lay there.
    mixed = unit(delta[into]) + signs(chance[:, 5:], delta) * pattern
    # nu on W2 = 0, nu on W1 = eps_avail nu_temp / |nu_temp|
    moved = delta.clone()
    moved[out_of] = 0
    moved[into] = unit(mixed) * (mass + per_image(unused, delta) / channels).sqrt()
    return eps * steepest(moved, Norm.L2)


def unit(window: Tensor) -> Tensor:
    """Scale each channel's window (N, C, S, S) to length 1."""
    return window / window.square().sum((2, 3), keepdim=True).sqrt().clamp_min(1e-12)


def bump(side: int, like: Tensor) -> Tensor:
    """Build eta* (S, S) of length 1: a pyramid up in one half and down in the other."""
    return _bump(side, like.dtype, like.device)


@functools.cache  # or the host would wait in each query
def _bump(side: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    def pyramid(height: int) -> Tensor:
        row = (torch.arange(height) - height // 2).abs()[:, None]
        column = (torch.arange(side) - side // 2).abs()[None]
        steps = 1.0 / torch.arange(1, side + 2, dtype=torch.float64).square()
        mass = steps[: side // 2 + 1].flip(0).cumsum(0).flip(0)  # of rings around the middle
        return mass[torch.maximum(row, column)]

    whole = torch.cat((pyramid(side // 2), -pyramid(side - side // 2)))
    pattern: Tensor = whole / whole.norm()
    return pattern.to(device, dtype)


def signs(chance: Tensor, like: Tensor) -> Tensor:
    """Turn uniform numbers (N, C) into signs (N, C, 1, 1) of the type of ``like``."""
    return (2 * (chance < 0.5) - 1).to(like.dtype)[:, :, None, None]


def windows(like: Tensor, side: int, chance: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Place a window per image by uniform numbers (N, 2): an index that gives (N, C, S, S)."""
    images, channels, height, width = like.shape
    span = torch.arange(side, device=like.device)
    top, left = chance.unbind(1)
    row = (top * (height - side + 1)).long()[:, None] + span
    column = (left * (width - side + 1)).long()[:, None] + span
    image = torch.arange(images, device=like.device)[:, None, None, None]
    channel = torch.arange(channels, device=like.device)[None, :, None, None]
    return image, channel, row[:, None, :, None], column[:, None, None, :]

"""RayS on votes: the shortest way across the boundary along corners of the ball, by labels.

Chen and Gu 2020, "RayS: A Ray Searching Method for Hard-label Adversarial Attack", arXiv
2006.12792. A direction d has a sign for each pixel, and a radius r at which x + r d, cut to the
box, is not of class y any more. Algorithms 2 (fast check, binary search) and 3 (blocks):

    d = 1, r = infinity, s = 0, k = 1
    until the queries are used up:
        d' = d with the signs of block k of 2^s turned
        if x + r d' is wrong:                        # fast check
            bisect [0, r] for the radius of d'
            r, d = that radius, d'
        k = k + 1; after the last block s = s + 1, k = 1

Four things differ. Every image of a batch goes its own way, one question at a time, and a
random defense answers by a vote (``_votes.py``). A check is at r - eps / 64, and bisected is
the last of growing steps down from there, since most gains are small. Where answers are votes,
all draws vote once more on a radius that was found, or r would fall by luck alone. And what
counts is the ball, not the radius: whenever r falls to eps, all draws vote on x + eps d, and an
image of which they are sure is done.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from bench.api import Access, Averaged, Calls, Norm, Rng, ThreatModel, View, per_image, project
from bench_attacks._best import Best
from bench_attacks._votes import wrong_share

_CHECK, _MEASURE, _VERIFY, _CONFIRM = range(4)  # what an image asks
_NEAR = 1 / 64  # of eps: how well a radius is measured
_SURE = 0.8  # share of wrong votes at which an image is done
_LEAVE = 10  # queries between two checks which images are done


@dataclass(frozen=True)
class Rays:
    """RayS (arXiv 2006.12792) on votes: search the corners of the ball, by labels only.

    ``queries`` questions an image, each a vote of at most ``eot`` draws; one draw where the
    view is deterministic. In each round of blocks every image begins at a random one.
    """

    revision: ClassVar[int] = 1
    independent: ClassVar[bool] = True
    norms: ClassVar[tuple[Norm, ...]] = (Norm.LINF,)
    accesses: ClassVar[tuple[Access, ...]] = (Access.LABEL, Access.TRANSFER)
    unbounded: ClassVar[bool] = False

    queries: Annotated[int, Field(ge=1)] = 1000
    eot: Annotated[int, Field(ge=1)] = 10

    def __call__(
        self, view: View, x: Tensor, y: Tensor, *, threat: ThreatModel, rng: Rng
    ) -> Tensor:
        """Return images (N, C, H, W) that most draws mistake for other than y (N,)."""
        eps, most = threat.radius, self.eot if view.stochastic else 1
        best, rng = Best.nothing(x), rng.fork("rays")
        rows = torch.arange(len(x), device=x.device)
        rules = Rules.of(x, eps, luck=view.stochastic)
        search, found = Search.begin(x, rng.fork("order")), best[rows]
        for query in range(self.queries):
            confirms, streams = search.asks == _CONFIRM, rng[rows].fork("query", query)
            whole = confirms | (search.asks == _VERIFY)
            sign, radius = search.question(rules)
            x_new = (x[rows] + per_image(radius, x) * sign).clamp(0, 1)
            share = wrong_share(view, x_new, y[rows], most=most, whole=whole, rng=streams)
            # Only what all draws voted on counts as found.
            seen = torch.where(confirms, share, -torch.inf)
            found.offer(x_new, Averaged(seen, seen))
            search = search.answered(share > 0.5, sign, radius, rules)
            if (query + 1) % _LEAVE == 0:
                best.put(rows, found)
                staying = (found.wrong < _SURE).nonzero()[:, 0]
                rows, found, search = rows[staying], found[staying], search[staying]
                if len(rows) == 0:
                    return best.x
        # Where no vote was won, the point nearest to the boundary.
        guess = x[rows] + per_image(search.r.clamp_max(eps), x) * search.sign
        half = torch.full_like(search.r, 0.5)
        found.offer(project(guess, x[rows], threat.norm, eps), Averaged(half, half))
        best.put(rows, found)
        return best.x

    def calls(self, *, stochastic: bool, classes: int) -> Calls:
        """Bound the cost of one image whose votes are all close."""
        return Calls(forward=self.queries * (self.eot if stochastic else 1))


@dataclass(frozen=True)
class Search:
    """Where M images are: ``sign`` (M, C, H, W) is d, ``r`` (M,) its radius, 1 is infinity.

    ``asks`` (M,) is what comes next. The radius of d' is between ``low``, 0 until a question
    was answered by no, and ``high``; ``step`` is the next one down (all (M,)). ``level`` and
    ``block`` (M,) are s and k, ``order`` (M,) in [0, 1) says at which block a level begins.
    """

    sign: Tensor
    r: Tensor
    asks: Tensor
    low: Tensor
    high: Tensor
    step: Tensor
    level: Tensor
    block: Tensor
    order: Tensor

    @classmethod
    def begin(cls, x: Tensor, rng: Rng) -> Search:
        """Start at d = 1, as the paper does."""
        ones = torch.ones_like(x[:, 0, 0, 0])
        none = torch.zeros_like(ones, dtype=torch.int64)
        order = rng.uniform((1,))[:, 0]
        return cls(torch.ones_like(x), ones, none, 0 * ones, ones, 0 * ones, none, none, order)

    def __getitem__(self, rows: Tensor) -> Search:
        """Keep some images, by index (m,)."""
        return Search(*(getattr(self, field.name)[rows] for field in fields(self)))

    def question(self, rules: Rules) -> tuple[Tensor, Tensor]:
        """Return the direction (M, C, H, W) and the radius (M,) to ask about."""
        confirms = self.asks == _CONFIRM
        down = torch.maximum(self.high - self.step, self.high / 2)
        radius = torch.where(self.low > 0, (self.low + self.high) / 2, down)
        shorter = (self.r - rules.near).clamp_min(0)
        radius = torch.where(self.asks == _MEASURE, radius, shorter)
        radius = torch.where(self.asks == _VERIFY, self.high, radius)
        turned = ~per_image(confirms, self.sign) & rules.block(self)
        return torch.where(turned, -self.sign, self.sign), torch.where(
            confirms, rules.eps, radius
        )

    def answered(self, wrong: Tensor, sign: Tensor, radius: Tensor, rules: Rules) -> Search:
        """Take the answers (M,) to the question, and find the next one."""
        checked, measured = self.asks == _CHECK, self.asks == _MEASURE
        verified = self.asks == _VERIFY
        high = torch.where(wrong & (checked | measured), radius, self.high)
        low = torch.where(checked, 0.0, torch.where(measured & ~wrong, radius, self.low))
        close = measured & (high - low <= rules.near)
        # Where answers are a matter of luck, all draws vote on the radius that was found.
        ends, taken = (verified, verified & wrong) if rules.luck else (close, close)
        near = torch.full_like(high, 2 * rules.near)
        step = torch.where(checked, near, 2 * self.step)
        asks = torch.where((checked & wrong) | (measured & ~close), _MEASURE, _CHECK)
        asks = torch.where(close & ~ends, _VERIFY, asks)
        asks = torch.where(taken & (high <= rules.eps), _CONFIRM, asks)
        block = self.block + ((checked & ~wrong) | ends).long()
        over = block == rules.count[self.level]
        return replace(
            self,
            sign=torch.where(per_image(taken, sign), sign, self.sign),
            r=torch.where(taken, high, self.r),
            asks=asks,
            low=low,
            high=high,
            step=step,
            level=(self.level + over.long()).clamp_max(len(rules.count) - 1),
            block=torch.where(over, 0, block),
        )


@dataclass(frozen=True)
class Rules:
    """What is the same for all images: the radius ``eps`` of the ball, and the blocks.

    Level s has ``count`` (S,) blocks of ``size`` (S,) pixels. ``luck``: whether answers are
    votes, which may be wrong.
    """

    eps: float
    luck: bool
    size: Tensor
    count: Tensor
    place: Tensor  # of each pixel (C, H, W) in a row

    @classmethod
    def of(cls, x: Tensor, eps: float, *, luck: bool) -> Rules:
        """Halve the images (N, C, H, W) level by level, down to single pixels."""
        place = torch.arange(x[0].numel(), device=x.device).reshape(x.shape[1:])
        pixels = place.numel()
        sizes = [-(-pixels // 2**level) for level in range(pixels.bit_length() + 1)]
        size = torch.tensor(list(dict.fromkeys(sizes)), device=x.device)
        return cls(eps, luck, size, (pixels + size - 1) // size, place)

    @property
    def near(self) -> float:
        """How well a radius is measured."""
        return _NEAR * self.eps

    def block(self, search: Search) -> Tensor:
        """Return which pixels (M, C, H, W) are in the block that each image is at."""
        size, count = self.size[search.level], self.count[search.level]
        block = (search.block + (search.order * count).long()) % count
        first, size = (per_image(one, search.sign) for one in (block * size, size))
        return (self.place >= first) & (self.place < first + size)

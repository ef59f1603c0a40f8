"""Votes on images in other company: each in a batch of its own, or beside foreign images."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.core.defense import Defense
from bench.core.rng import Rng
from bench.evaluation.judge import vote


def votes_alone(
    defense: Defense, x: Tensor, y: Tensor, *, draws: int, rng: Rng, sequential: bool = False
) -> Tensor:
    """Vote as the judge does on each of x (N, C, H, W) by itself: votes (N, K)."""
    parts = []
    for row in range(len(x)):
        one = slice(row, row + 1)
        found = vote(defense, x[one], y[one], draws=draws, rng=rng[one], sequential=sequential)
        parts.append(found.votes)
    return torch.cat(parts)


def votes_beside(
    defense: Defense, x: Tensor, y: Tensor, *, draws: int, rng: Rng, sequential: bool = False
) -> Tensor:
    """Vote on x (N, C, H, W) with a foreign image before each, noise or white: votes (N, K)."""
    foreign = rng.fork("foreign").uniform_like(x)
    foreign[::2] = 1.0
    mixed = torch.stack((foreign, x), dim=1).flatten(0, 1)
    twice = torch.arange(len(x), device=x.device).repeat_interleave(2)
    found = vote(defense, mixed, y[twice], draws=draws, rng=rng[twice], sequential=sequential)
    return found.votes[1::2]

"""Votes on images in other company: each in a batch of its own, or beside foreign images."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from bench.core.defense import Defense
from bench.core.rng import Rng
from bench.evaluation.judge import vote


def votes_alone(
    defense: Defense, x: Tensor, y: Tensor, *, draws: int, rng: Rng, sequential: bool = False
) -> Tensor:
    """Vote as the judge does on each of x (N, C, H, W) by itself: votes (N, K)."""
    asked = partial(vote, defense, draws=draws, sequential=sequential)
    rows = [slice(row, row + 1) for row in range(len(x))]
    return torch.cat([asked(x[row], y[row], rng=rng[row]).votes for row in rows])


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

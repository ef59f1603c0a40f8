"""Purifiers that leave a linear defense linear: undone by its classifier, or adding noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from bench.calibration.linear import SIDE, Problem
from bench.core.rng import Rng


@dataclass(frozen=True)
class Affine:
    """Purify to ``offset + scale * x``: invertible, so that a classifier can undo it."""

    scale: float = 1.0
    offset: float = 0.0
    stochastic: ClassVar[bool] = False
    differentiable: ClassVar[bool] = True

    @property
    def bpda_holds(self) -> bool:
        """Whether the identity is the purifier's gradient, up to a positive factor."""
        return self.scale > 0

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Return the affine image of x (N, C, H, W)."""
        return x if (self.scale, self.offset) == (1, 0) else self.offset + self.scale * x

    def undone(self, problem: Problem) -> tuple[Tensor, Tensor]:
        """Return the weight (K, 64) and bias (K,) whose logits after purifying are the same."""
        weight = problem.weight.double() / self.scale
        return weight, problem.bias.double() - self.offset * weight.sum(1)


@dataclass(frozen=True)
class Mirror:
    """Flip images left to right: orthogonal, and far from the identity."""

    stochastic: ClassVar[bool] = False
    differentiable: ClassVar[bool] = True
    bpda_holds: ClassVar[bool] = False

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Return the mirrored x (N, C, H, W)."""
        return x.flip(3)

    def undone(self, problem: Problem) -> tuple[Tensor, Tensor]:
        """Return the weight (K, 64) and bias (K,) that see the image unmirrored."""
        square = problem.weight.double().reshape(-1, SIDE, SIDE)
        return square.flip(2).flatten(1), problem.bias.double()


@dataclass(frozen=True)
class Noisy:
    """Add N(0, sigma^2) to every pixel, unclipped."""

    sigma: float
    stochastic: ClassVar[bool] = True
    differentiable: ClassVar[bool] = True
    bpda_holds: ClassVar[bool] = True

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Return noisy images (N, C, H, W)."""
        return x + self.sigma * rng.normal_like(x)

    def undone(self, problem: Problem) -> tuple[Tensor, Tensor]:
        """Return the problem's own weight and bias: noise cannot be undone."""
        return problem.weight.double(), problem.bias.double()


Known = Affine | Mirror | Noisy


def network(problem: Problem, purifier: Known) -> nn.Module:
    """Build the classifier that stands behind a purifier and undoes it."""
    weight, bias = purifier.undone(problem)
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return nn.Sequential(nn.Flatten(), layer)

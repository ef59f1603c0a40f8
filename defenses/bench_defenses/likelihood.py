"""Test-time steps that raise a diffusion model's likelihood of the image.

Likelihood maximization of Chen et al. 2024, arXiv 2305.15241, section 3.3, by plain gradient
steps on its bound: how badly the network of ``diffusion`` predicts noise at a random time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from bench.api import Rng, per_image
from bench_defenses._averaged import Positive
from bench_defenses.denoisers.defense import OnDiffusion, recipe_on_diffusion
from bench_defenses.denoisers.diffusion import (
    TIMES,
    DiffusionRecipe,
    kept,
)
from bench_defenses.denoisers.unet import UNet
from bench_defenses.energies.langevin import LangevinStep


class Bound(nn.Module):
    """The squared error (N,) of the noise that a network predicts for images at given times.

    Made anew for each step: passes that are replayed know networks by their weights, and times
    and noise are none.
    """

    def __init__(self, denoiser: UNet, *, t: Tensor, noise: Tensor, shares: Tensor) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.t, self.noise, self.shares = t, noise, shares

    def forward(self, x: Tensor) -> Tensor:
        """Return the error of each of x (N, C, H, W) in [0, 1]."""
        share = per_image(self.shares, x)
        z = share.sqrt() * (2 * x - 1) + (1 - share).sqrt() * self.noise
        error: Tensor = (self.denoiser(z, self.t) - self.noise).square().flatten(1).sum(1)
        return error


class LikelihoodAscent(nn.Module):
    """K steps x <- clamp(x - s grad B(x)), each on the bound B of its own times and noise."""

    stochastic = True
    differentiable = True

    def __init__(
        self, denoiser: UNet, *, steps: int, step_size: float, first: int, last: int
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.steps, self.step_size = steps, step_size
        self.first, self.last = first, last
        shares = torch.tensor([kept(t) for t in range(TIMES + 1)], dtype=torch.float64)
        self.register_buffer("shares", shares, persistent=False)

    def step(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Take one step from x (N, C, H, W)."""
        drawn = rng.fork("time").uniform(())
        t = self.first + (drawn * (self.last - self.first + 1)).long()
        shares = self.get_buffer("shares")[t].to(x.dtype)
        noise = rng.fork("noise").normal_like(x)
        bound = Bound(self.denoiser, t=(t / TIMES).to(x.dtype), noise=noise, shares=shares)
        moved: Tensor = LangevinStep.apply(x, torch.zeros_like(x), bound, self.step_size)
        return moved

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Take all steps from x (N, C, H, W)."""
        for k in range(self.steps):
            x = self.step(x, rng=rng.fork("likelihood", k))
        return x

    def coarser(self, factor: int) -> LikelihoodAscent:
        """Build the process of ``factor`` times fewer and longer steps."""
        steps = -(-self.steps // factor)
        return LikelihoodAscent(
            self.denoiser,
            steps=steps,
            step_size=self.step_size * self.steps / steps,
            first=self.first,
            last=self.last,
        )


@dataclass(frozen=True)
class Likelihood(OnDiffusion):
    """Raise a diffusion model's likelihood by K ``steps`` (LM, Chen et al. 2024).

    The times of the bound are uniform from ``first`` to ``last`` of 1,000.
    """

    steps: Positive = 5
    step_size: Annotated[float, Field(gt=0)] = 0.002
    first: Annotated[int, Field(ge=1, le=TIMES)] = 200
    last: Annotated[int, Field(ge=1, le=TIMES)] = 500
    training: DiffusionRecipe = field(default_factory=DiffusionRecipe)

    revision: ClassVar[int] = 1
    kind: ClassVar[str] = "diffusion"
    source: ClassVar[str] = "Chen et al. 2024, arXiv 2305.15241"

    def __post_init__(self) -> None:
        if self.first > self.last:
            raise ValueError(
                f"the first time, {self.first}, is after the last, {self.last}. Exchange them"
            )

    @staticmethod
    def recipe(dataset: str) -> dict[str, Any]:
        """Return the shipped parameters for a data set, with the training of ``diffusion``."""
        return recipe_on_diffusion("likelihood", dataset)

    def passes(self) -> dict[str, int]:
        """Count the passes of one purification, per image."""
        return {"denoiser forward": self.steps, "denoiser backward": self.steps}

    def load(
        self, weights: Mapping[str, Tensor], *, shape: tuple[int, ...]
    ) -> LikelihoodAscent:
        """Build the purifier; raises CheckpointError where the weights do not fit."""
        net = self.denoiser(weights, shape)
        return LikelihoodAscent(
            net, steps=self.steps, step_size=self.step_size, first=self.first, last=self.last
        )

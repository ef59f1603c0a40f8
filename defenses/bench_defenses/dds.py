"""Diffusion denoised smoothing: noise, and one denoising step at its level.

Carlini et al. 2023, arXiv 2206.10550, algorithm 1; the vote is the judge's. The network is that
of ``diffusion``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor, nn

from bench.api import Rng
from bench_defenses.denoisers.defense import OnDiffusion, recipe_on_diffusion
from bench_defenses.denoisers.diffusion import (
    TIMES,
    DiffusionRecipe,
    denoised,
    kept,
    sigma_of,
    time_of,
)
from bench_defenses.denoisers.unet import UNet
from bench_defenses.gaussian import Gaussian


class OneStep(nn.Module):
    """Add normal noise of ``sigma``, and return the network's guess of the clean image."""

    stochastic = True
    differentiable = True

    def __init__(self, denoiser: UNet, *, sigma: float) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.sigma = sigma
        self.t = time_of(sigma)

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Purify x (N, C, H, W), finite and on purpose not clipped to the box."""
        noisy = x + self.sigma * rng.normal_like(x)
        clean, _ = denoised(self.denoiser, math.sqrt(kept(self.t)) * (2 * noisy - 1), self.t)
        return (clean + 1) / 2

    def noise_alone(self) -> Gaussian:
        """Build the purifier that adds the noise, and does not take it off."""
        return Gaussian(sigma=self.sigma)


@dataclass(frozen=True)
class Dds(OnDiffusion):
    """Add N(0, sigma^2), and denoise in one step of a diffusion model (Carlini et al. 2023)."""

    sigma: Annotated[float, Field(gt=0, le=sigma_of(TIMES - 1))] = 0.25
    training: DiffusionRecipe = field(default_factory=DiffusionRecipe)

    revision: ClassVar[int] = 1
    kind: ClassVar[str] = "diffusion"
    source: ClassVar[str] = "Carlini et al. 2023, arXiv 2206.10550"

    def certified_noise(self) -> float:
        """Return sigma: denoising and classifying are a deterministic map of x + noise."""
        return self.sigma

    @staticmethod
    def recipe(dataset: str) -> dict[str, Any]:
        """Return the shipped parameters for a data set, with the training of ``diffusion``."""
        return recipe_on_diffusion("dds", dataset)

    def passes(self) -> dict[str, int]:
        """Count the passes of one purification, per image."""
        return {"denoiser forward": 1}

    def load(self, weights: Mapping[str, Tensor], *, shape: tuple[int, ...]) -> OneStep:
        """Build the purifier; raises CheckpointError where the weights do not fit."""
        net = self.denoiser(weights, shape)
        return OneStep(net, sigma=self.sigma)

"""Adaptive steps along a score: ADP.

Yoon, Hwang and Lee 2021, arXiv 2106.06041, section 3.3 and algorithm 1; the vote over draws is
the judge's. Its score network is asked at one noise level whatever the image's own is. Here it
is the network of ``diffusion``, at the level of the noise that is added.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bench.api import Rng, per_image
from bench_defenses._averaged import Positive
from bench_defenses.denoisers.defense import OnDiffusion, recipe_on_diffusion
from bench_defenses.denoisers.diffusion import (
    TIMES,
    DiffusionRecipe,
    kept,
    sigma_of,
    time_of,
)
from bench_defenses.denoisers.unet import UNet
from bench_defenses.gaussian import Gaussian

_PROBE = 1e-3  # how far along the score its curvature is measured
_SHORTEST, _LONGEST = 1e-5, 0.1  # a step's size


class ScoreSteps(nn.Module):
    """Add noise, and climb the score s by x <- clamp(x + a s(x)) until a falls below ``stop``.

    a is ``step`` times the length after which the score would have lost its projection.
    """

    stochastic = True
    differentiable = True

    def __init__(
        self, denoiser: UNet, *, sigma: float, steps: int, step: float, stop: float
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.sigma, self.steps, self.fraction, self.stop = sigma, steps, step, stop
        self.t = time_of(sigma)

    def score(self, x: Tensor) -> Tensor:
        """Return the score (N, C, H, W) of noisy images x in [0, 1]."""
        z = math.sqrt(kept(self.t)) * (2 * x - 1)
        noise: Tensor = self.denoiser(z, x.new_full((len(x),), self.t / TIMES))
        return -noise / self.sigma

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Purify x (N, C, H, W); backwards each step is replayed from its state."""
        x = (x + self.sigma * rng.normal_like(x)).clamp(0, 1)
        live = torch.ones(len(x), dtype=torch.bool, device=x.device)
        for _ in range(self.steps):
            x, live = checkpoint(
                self._climb, x, live, use_reentrant=False, preserve_rng_state=False
            )
        return x

    def _climb(self, x: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
        """Take one step with the images that still move."""
        here = self.score(x)
        there = self.score(x + _PROBE * here)
        length = here.square().flatten(1).sum(1).clamp_min(1e-12)
        lost = 1 - (here * there).flatten(1).sum(1) / length
        # A score that does not bend yet, or bends away, allows the longest step.
        size = (self.fraction * _PROBE / lost.clamp_min(1e-12)).clamp(_SHORTEST, _LONGEST)
        live = live & (size > self.stop)
        return (x + per_image(size * live, x) * here).clamp(0, 1), live

    def coarser(self, factor: int) -> ScoreSteps:
        """Build the process of ``factor`` times fewer and longer steps."""
        steps = -(-self.steps // factor)
        return ScoreSteps(
            self.denoiser,
            sigma=self.sigma,
            steps=steps,
            step=self.fraction * self.steps / steps,
            stop=self.stop,
        )

    def noise_alone(self) -> Gaussian:
        """Build the purifier that adds the noise, and climbs nowhere."""
        return Gaussian(sigma=self.sigma)


@dataclass(frozen=True)
class Score(OnDiffusion):
    """Add N(0, sigma^2), and climb a score in adaptive ``steps`` (ADP, Yoon et al. 2021)."""

    sigma: Annotated[float, Field(gt=0, le=sigma_of(TIMES - 1))] = 0.25
    steps: Positive = 10
    step: Annotated[float, Field(gt=0)] = 0.05  # lambda
    stop: Annotated[float, Field(ge=0)] = 1e-3
    training: DiffusionRecipe = field(default_factory=DiffusionRecipe)

    revision: ClassVar[int] = 1
    kind: ClassVar[str] = "diffusion"
    source: ClassVar[str] = "Yoon, Hwang and Lee 2021, ADP, arXiv 2106.06041"

    def certified_noise(self) -> float:
        """Return sigma: clamp and steps are a deterministic map of x + noise."""
        return self.sigma

    @staticmethod
    def recipe(dataset: str) -> dict[str, Any]:
        """Return the shipped parameters for a data set, with the training of ``diffusion``."""
        return recipe_on_diffusion("score", dataset)

    def passes(self) -> dict[str, int]:
        """Count the passes of one purification, per image."""
        return {"denoiser forward": 2 * self.steps}

    def load(self, weights: Mapping[str, Tensor], *, shape: tuple[int, ...]) -> ScoreSteps:
        """Build the purifier; raises CheckpointError where the weights do not fit."""
        net = self.denoiser(weights, shape)
        return ScoreSteps(
            net, sigma=self.sigma, steps=self.steps, step=self.step, stop=self.stop
        )

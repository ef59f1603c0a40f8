"""A diffusion model as a purifier: to a time of the process, and back in a few steps.

DiffPure (Nie et al. 2022, arXiv 2205.07460, section 3.1); several ``rounds`` as in Lee and Kim
2023, arXiv 2303.09051, section 4.2.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bench.api import Rng
from bench_defenses._averaged import Positive
from bench_defenses._recipe import recipe
from bench_defenses.denoisers.defense import OnDiffusion
from bench_defenses.denoisers.diffusion import (
    TIMES,
    DiffusionRecipe,
    denoised,
    kept,
    sigma_of,
)
from bench_defenses.denoisers.unet import UNet
from bench_defenses.gaussian import Gaussian

Sampler = Literal["ddpm", "ddim"]


class Diffuser(nn.Module):
    """Add the noise of time ``t``, and take it off in ``steps`` equal parts of the time.

    Backwards, each step is replayed from its state, so that no activation outlives it.
    """

    stochastic = True
    differentiable = True

    def __init__(
        self, denoiser: UNet, *, t: int, steps: int, rounds: int, sampler: Sampler
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.t, self.steps, self.rounds, self.sampler = t, steps, rounds, sampler

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Purify x (N, C, H, W), finite and on purpose not clipped to the box.

        A clip would hide the gradient of black and white pixels.
        """
        z, share = 2 * x - 1, kept(self.t)
        times = [round(self.t * k / self.steps) for k in range(self.steps, -1, -1)]
        for number in range(self.rounds):
            stream = rng.fork("diffusion", number)
            noise = stream.fork("forth").normal_like(z)
            z = math.sqrt(share) * z + math.sqrt(1 - share) * noise
            for t, s in itertools.pairwise(times):
                noise = stream.fork("back", t).normal_like(z)
                z = checkpoint(
                    self._back, z, noise, t, s, use_reentrant=False, preserve_rng_state=False
                )
        return (z + 1) / 2

    def _back(self, z: Tensor, noise: Tensor, t: int, s: int) -> Tensor:
        """Go from time t to an earlier s, by DDPM's posterior or by DDIM without noise."""
        share, later = kept(t), kept(s)
        clean, predicted = denoised(self.denoiser, z, t)
        if s == 0:
            return clean
        if self.sampler == "ddim":  # Song et al. 2021, arXiv 2010.02502, equation 12, eta = 0
            return math.sqrt(later) * clean + math.sqrt(1 - later) * predicted
        # Ho et al. 2020, arXiv 2006.11239, equations 6 and 7, of a longer step
        step = share / later
        mean = (math.sqrt(later) * (1 - step) * clean + math.sqrt(step) * (1 - later) * z) / (
            1 - share
        )
        return mean + math.sqrt((1 - step) * (1 - later) / (1 - share)) * noise

    def coarser(self, factor: int) -> Diffuser:
        """Build the process from the same time back in ``factor`` times fewer steps."""
        return Diffuser(
            self.denoiser,
            t=self.t,
            steps=-(-self.steps // factor),
            rounds=self.rounds,
            sampler=self.sampler,
        )

    def noise_alone(self) -> Gaussian:
        """Build the purifier that adds the noise of time t, and does not take it off."""
        return Gaussian(sigma=sigma_of(self.t))


@dataclass(frozen=True)
class Diffusion(OnDiffusion):
    """Diffuse to time ``t`` of 1,000 and back in ``steps`` (DiffPure, Nie et al. 2022)."""

    t: Annotated[int, Field(ge=1, le=TIMES)] = 200
    steps: Positive = 5
    rounds: Positive = 1
    sampler: Sampler = "ddpm"
    training: DiffusionRecipe = field(default_factory=DiffusionRecipe)

    revision: ClassVar[int] = 1
    kind: ClassVar[str] = "diffusion"
    source: ClassVar[str] = "Nie et al. 2022, DiffPure, arXiv 2205.07460"

    def __post_init__(self) -> None:
        if self.steps > self.t:
            raise ValueError(
                f"{self.steps} steps back from time {self.t} would be shorter than the "
                f"schedule's. Take at most {self.t} steps, or a larger t"
            )

    def certified_noise(self) -> float:
        """Return the noise at time t on pixels of [0, 1], before rescaling.

        The steps back, with noise of their own, and later rounds see the noisy image only.
        """
        return sigma_of(self.t)

    @staticmethod
    def recipe(dataset: str) -> dict[str, Any]:
        """Return the shipped parameters for a data set."""
        return recipe("diffusion", dataset)

    def passes(self) -> dict[str, int]:
        """Count the passes of one purification, per image."""
        return {"denoiser forward": self.rounds * self.steps}

    def load(self, weights: Mapping[str, Tensor], *, shape: tuple[int, ...]) -> Diffuser:
        """Build the purifier; raises CheckpointError where the weights do not fit."""
        net = self.denoiser(weights, shape)
        return Diffuser(
            net, t=self.t, steps=self.steps, rounds=self.rounds, sampler=self.sampler
        )

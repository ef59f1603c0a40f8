"""The diffusion process: its noise schedule, and the training of a network that undoes it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from bench.api import Task, per_image
from bench_defenses._averaged import Positive
from bench_defenses._seeding import generator, seeded
from bench_defenses.denoisers.training import HELD_OUT, DenoiserRecipe, DenoiserTraining
from bench_defenses.denoisers.unet import UNet

TIMES = 1000  # T, the times of the process: t / T in the network
_OFFSET = 0.008


def kept(t: int) -> float:
    """Return the share of an image's variance that is left at time t, of 0 to ``TIMES``.

    The cosine schedule of Nichol and Dhariwal 2021, arXiv 2102.09672, equation 17; above 0.
    """

    def f(t: float) -> float:
        return math.cos((t / TIMES + _OFFSET) / (1 + _OFFSET) * math.pi / 2) ** 2

    return max(f(t) / f(0), 1e-5)


def sigma_of(t: int) -> float:
    """Return the deviation of the noise on pixels in [0, 1] at time t, before rescaling."""
    return 0.5 * math.sqrt((1 - kept(t)) / kept(t))


def time_of(sigma: float) -> int:
    """Return the time whose noise on pixels in [0, 1] is nearest to ``sigma``."""
    return min(range(1, TIMES + 1), key=lambda t: abs(sigma_of(t) - sigma))


def denoised(net: UNet, z: Tensor, t: int) -> tuple[Tensor, Tensor]:
    """Predict clean images in [-1, 1] and the noise in z (N, C, H, W) at time t."""
    share = kept(t)
    noise: Tensor = net(z, z.new_full((len(z),), t / TIMES))
    return (z - math.sqrt(1 - share) * noise) / math.sqrt(share), noise


@dataclass(frozen=True)
class DiffusionRecipe(DenoiserRecipe):
    """How the network learns to predict the noise at every time of the process."""

    iterations: Positive = 4000
    batch: Positive = 64
    lr: Annotated[float, Field(gt=0)] = 2e-3
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.995


class DiffusionTraining(DenoiserTraining):
    """One training run: noise is predicted at uniform times (Ho et al. 2020, algorithm 1)."""

    def __init__(self, recipe: DiffusionRecipe, task: Task) -> None:
        with seeded(recipe.seed):
            net = UNet(task.train.x.shape[1], width=recipe.width)
        super().__init__(recipe, task, net)
        self._shares = torch.tensor([kept(t) for t in range(TIMES + 1)]).to(task.device)

    def loss(self, rows: Tensor, chance: torch.Generator) -> Tensor:
        """Return the mean squared error of the noise () on these rows of the images (N,)."""
        clean = 2 * self.task.train.x[rows] - 1
        t = torch.randint(1, TIMES + 1, (len(rows),), generator=chance).to(clean.device)
        noise = torch.randn(clean.shape, generator=chance).to(clean)
        share = per_image(self._shares[t], clean)
        z = share.sqrt() * clean + (1 - share).sqrt() * noise
        predicted: Tensor = self.net(z, t / TIMES)
        return (predicted.float() - noise).square().mean()

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Measure one denoising step from noise of .25 on held-out images, and the noise."""
        clean, t = self.task.validation.x[:HELD_OUT], time_of(0.25)
        noise = torch.randn(clean.shape, generator=generator(self._recipe.seed, "held out")).to(
            clean
        )
        share = kept(t)
        z = math.sqrt(share) * (2 * clean - 1) + math.sqrt(1 - share) * noise
        net = self.finished().eval()
        assert isinstance(net, UNet)
        cleaned = (denoised(net, z, t)[0] + 1) / 2
        return {
            "squared error held out": float((cleaned - clean).square().mean()),
            "squared error of the noise": sigma_of(t) ** 2,
        }

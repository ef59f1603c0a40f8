"""A purifier as a stranger writes it: a U-Net called by keyword, held by a plain dataclass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from bench.api import Rng


class Unet(nn.Module):
    """Predicts noise; its batch norm and its parameters would change in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        with torch.no_grad():
            self.conv.weight.fill_(0.02)
            self.conv.bias.fill_(0.0)

    def forward(self, *, timestep: Tensor, sample: Tensor) -> dict[str, Tensor]:
        assert timestep.dim() == 0
        return {"sample": self.conv(self.norm(sample)) * (1 + 0.1 * timestep)}


@dataclass
class Sampler:
    """Holds the network and is no module."""

    unet: Unet

    def denoise(self, x: Tensor, step: int) -> Tensor:
        noise: Tensor = self.unet(sample=x, timestep=torch.tensor(step, device=x.device))[
            "sample"
        ]
        return x - 0.1 * noise


def _sampler() -> Sampler:
    with torch.random.fork_rng(devices=[]):
        return Sampler(Unet())


@dataclass(frozen=True)
class Diffusion:
    """Takes denoising steps."""

    revision: ClassVar[int] = 1
    stochastic: ClassVar[bool] = True
    differentiable: ClassVar[bool] = True

    steps: int = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "sampler", _sampler())

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        x = x + 0.05 * rng.normal_like(x)
        for step in range(self.steps):
            x = self.sampler.denoise(x, step)
        return x

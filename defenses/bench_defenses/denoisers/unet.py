"""A small U-Net that predicts noise, conditioned on how much there is.

diffusers has larger ones with attention and text; this is the part of them that images of 8 to
32 pixels need, without another dependency. Smooth throughout, and no row depends on its batch.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_FREQUENCIES = 16


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(4, channels), channels)


class _Block(nn.Module):
    """Two convolutions and a shortcut, scaled and shifted by the time (N, ``time``)."""

    def __init__(self, before: int, after: int, *, time: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm(before), _norm(after)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        self.time = nn.Linear(time, 2 * after)
        self.shortcut = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        scale, shift = self.time(time)[:, :, None, None].chunk(2, dim=1)
        inner = self.norm2(self.conv1(F.silu(self.norm1(x)))) * (1 + scale) + shift
        found: Tensor = self.conv2(F.silu(inner)) + self.shortcut(x)
        return found


class UNet(nn.Module):
    """Noisy images (N, C, H, W) and times (N,) in [0, 1] to the noise (N, C, H, W).

    ``width`` channels at full size, twice as many at a half and a quarter of it.
    """

    def __init__(self, channels: int, *, width: int) -> None:
        super().__init__()
        time = 4 * width
        self.embed = nn.Sequential(
            nn.Linear(2 * _FREQUENCIES, time), nn.SiLU(), nn.Linear(time, time), nn.SiLU()
        )
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        self.at_full = _Block(width, width, time=time)
        self.down1 = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.at_half = _Block(width, 2 * width, time=time)
        self.down2 = nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1)
        self.middle1 = _Block(2 * width, 2 * width, time=time)
        self.middle2 = _Block(2 * width, 2 * width, time=time)
        self.up_half = _Block(4 * width, 2 * width, time=time)
        self.up_full = _Block(3 * width, width, time=time)
        self.norm = _norm(width)
        self.head = nn.Conv2d(width, channels, 3, padding=1)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Predict the noise in x."""
        time = self.embed(_waves(t))
        full = self.at_full(self.stem(x), time)
        half = self.at_half(self.down1(full), time)
        deep = self.middle2(self.middle1(self.down2(half), time), time)
        wide = torch.cat([F.interpolate(deep, half.shape[2:]), half], dim=1)
        half = self.up_half(wide, time)
        wide = torch.cat([F.interpolate(half, full.shape[2:]), full], dim=1)
        noise: Tensor = self.head(F.silu(self.norm(self.up_full(wide, time))))
        return noise


def _waves(t: Tensor) -> Tensor:
    """Write times (N,) in [0, 1] as sines and cosines (N, 32) of 1 to 1,000 radians."""
    powers = torch.linspace(0, 1, _FREQUENCIES, dtype=t.dtype, device=t.device)
    angles = t[:, None] * 1000.0**powers
    return torch.cat([angles.sin(), angles.cos()], dim=1)

"""A convolutional encoder to a quarter of the side, and its decoder back to pixels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def halved(side: int) -> int:
    """Count the pixels of a side after a convolution of stride 2."""
    return -(-side // 2)


class Encoder(nn.Module):
    """Images (N, C, H, W) in [0, 1] to features (N, 4 ``width``, H/4, W/4), rounded up."""

    def __init__(self, channels: int, *, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(4 * width, 4 * width, 3, padding=1),
            nn.SiLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Encode images."""
        features: Tensor = self.layers(2 * x - 1)
        return features


class Decoder(nn.Module):
    """Features (N, 4 ``width``, H/4, W/4) to the logits of pixels (N, C, H, W)."""

    def __init__(self, shape: tuple[int, ...], *, width: int) -> None:
        super().__init__()
        channels, *self.sides = shape
        self.conv1 = nn.Conv2d(4 * width, 2 * width, 3, padding=1)
        self.conv2 = nn.Conv2d(2 * width, width, 3, padding=1)
        self.conv3 = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """Decode features."""
        half = F.interpolate(features, [halved(side) for side in self.sides])
        x = F.interpolate(F.silu(self.conv1(half)), self.sides)
        logits: Tensor = self.conv3(F.silu(self.conv2(x)))
        return logits


class Autoencoder(nn.Module):
    """Images (N, C, H, W) to images in [0, 1] that a code of a quarter of the side can say."""

    def __init__(self, shape: tuple[int, ...], *, width: int) -> None:
        super().__init__()
        self.encoder = Encoder(shape[0], width=width)
        self.decoder = Decoder(shape, width=width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the cleaned images."""
        logits: Tensor = self.decoder(self.encoder(x))
        return logits.sigmoid()

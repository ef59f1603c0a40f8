"""An autoencoder with noise on its code, in front of the classifier.

Mandal 2023, arXiv 2312.03520: weights for MNIST and Fashion-MNIST, trained on images that PGD
attacked. The layout follows from the tensors' names and shapes; no code was taken over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from bench.api import PublishedFile, Rng, load_weights
from bench_defenses._recipe import recipe
from bench_defenses.museum._shape import check_shape

_SIDE = 32  # of the images that the network takes
_PUBLISHED = {
    name: PublishedFile(
        name=f"mandal_ae_{name}_pgd.pth",
        sha256=sha256,
        repository="Shreyasi2002/Adversarial_Attack_Defense",
        commit="b9029c8d",
        path=f"models/ae_{name}_pgd.pth.tar",
        licence="GPL-3",
    )
    for name, sha256 in (
        ("mnist", "1da58dd523ec1e61c3fe8a6fa28b75301eb14ec2dbdbeb161c3f895547cc35d5"),
        ("fmnist", "26c186f2f5fefeb953b31ad372b0dd7034752f15bf38e5751a010112e612e4d4"),
    )
}


class NoisyAutoencoder(nn.Module):
    """Encode to ten numbers, add N(0, 1) to each, decode."""

    stochastic = True
    differentiable = True

    def __init__(self) -> None:
        super().__init__()
        self.encoder_conv2D = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.BatchNorm2d(16),
            nn.GELU(),
            nn.Conv2d(16, 32, 3, stride=2),
            nn.GELU(),
        )
        self.encoder_linear = nn.Sequential(nn.Linear(288, 128), nn.GELU(), nn.Linear(128, 10))
        self.decoder_linear = nn.Sequential(
            nn.Linear(10, 128), nn.GELU(), nn.Linear(128, 288), nn.GELU()
        )
        self.decoder_convt2d = nn.Sequential(
            nn.ConvTranspose2d(32, 16, 3, stride=2, output_padding=1),
            nn.BatchNorm2d(16),
            nn.GELU(),
            nn.ConvTranspose2d(16, 8, 3, stride=2, padding=1, output_padding=1),
            nn.BatchNorm2d(8),
            nn.GELU(),
            nn.ConvTranspose2d(8, 1, 3, stride=2, padding=1, output_padding=1),
        )

    def encode(self, x: Tensor) -> Tensor:
        """Return the codes (N, 10) of images (N, 1, H, W) in [0, 1]."""
        larger = F.interpolate(x, (_SIDE, _SIDE), mode="bilinear")
        found: Tensor = self.encoder_linear(self.encoder_conv2D(larger).flatten(1))
        return found

    def decode(self, codes: Tensor, sides: tuple[int, int]) -> Tensor:
        """Return the images (N, 1, *sides) in [0, 1] of codes (N, 10)."""
        features = self.decoder_linear(codes).unflatten(1, (32, 3, 3))
        return F.interpolate(self.decoder_convt2d(features).sigmoid(), sides, mode="bilinear")

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Return one image (N, 1, H, W) in [0, 1] per image."""
        return self.purify_draws(x, rng=rng)

    def purify_draws(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Encode each of x (N, 1, H, W) once, and decode a code per stream (N * draws)."""
        codes = self.encode(x).repeat_interleave(len(rng) // len(x), dim=0)
        return self.decode(codes + rng.normal_like(codes), (x.shape[2], x.shape[3]))


@dataclass(frozen=True)
class Mandal:
    """An autoencoder with noise on its ten numbers, as published (Mandal 2023)."""

    weights: Literal["mnist", "fmnist"] = "mnist"

    revision: ClassVar[int] = 1
    kind: ClassVar[str] = "museum"
    source: ClassVar[str] = "Mandal 2023, arXiv 2312.03520"
    stochastic: ClassVar[bool] = True
    differentiable: ClassVar[bool] = True

    @staticmethod
    def recipe(dataset: str) -> dict[str, Any]:
        """Return the shipped parameters for a data set."""
        return recipe("mandal_ae", dataset)

    def purifier(self, *, shape: tuple[int, ...]) -> NoisyAutoencoder:
        """Make the purifier for images of a shape (C, H, W).

        Raises PluginError for other shapes, DataError without the published weights,
        CheckpointError where they are others.
        """
        check_shape(shape, name="mandal_ae")
        return load_weights(NoisyAutoencoder(), _PUBLISHED[self.weights].found())

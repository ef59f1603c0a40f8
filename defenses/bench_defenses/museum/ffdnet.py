"""Noise, and an off-the-shelf denoiser that is told how much of it: denoised smoothing.

FFDNet of Zhang, Zuo and Zhang 2018, arXiv 1710.04026, with the weights of its IPOL edition
(Tassano, Delon and Veit 2019, doi 10.5201/ipol.2019.231), used in the manner of Salman et al.
2020, arXiv 2003.01908. The layout is written down from the papers and the tensors' shapes; no
code was taken over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from bench.api import PackagedFile, PluginError, Rng, load_weights
from bench_defenses._recipe import recipe
from bench_defenses.gaussian import Gaussian

_STRONGEST = 75 / 255  # noise that it was trained on, in pixels of [0, 1]
_WIDTHS = {1: (64, 15), 3: (96, 12)}  # channels of an image: those inside, and convolutions
_PUBLISHED = {
    channels: PackagedFile(
        name=f"ffdnet_weights_{colours}.pth",
        sha256=sha256,
        package="ffdnet",
        version="0.1.4",
        path=f"ffdnet/ffdnet_weights_{colours}.pth",
        licence="GPL-3",
    )
    for channels, colours, sha256 in (
        (1, "gray", "968ef3221fc5fd68f1d61a7df35af4526298ffe10b0adbcaa66cd369a8301106"),
        (3, "rgb", "0fe98bfd2ac870b15f360661b1c4789eecefc6dc2e4462842a0dd15e149a0433"),
    )
}


class FFDNet(nn.Module):
    """What of noisy images is noise: a network on their four interleaved quarters."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        width, depth = _WIDTHS[channels]
        between = [
            layer
            for _ in range(depth - 2)
            for layer in (
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            )
        ]
        self.layers = nn.Sequential(
            nn.Conv2d(5 * channels, width, 3, padding=1, bias=False),
            nn.ReLU(),
            *between,
            nn.Conv2d(width, 4 * channels, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor, sigma: float) -> Tensor:
        """Return the noise (N, C, H, W) of x, of even sides, and of deviation sigma.

        Noise and sigma are in pixels of [0, 1].
        """
        quarters = F.pixel_unshuffle(x, 2)
        level = torch.full_like(quarters[:, : x.shape[1]], sigma)
        found: Tensor = self.layers(torch.cat((level, quarters), dim=1))
        return F.pixel_shuffle(found, 2)


class DenoisedSmoothing(nn.Module):
    """Add normal noise of ``sigma``, and take off what the denoiser sees of it."""

    stochastic = True
    differentiable = True

    def __init__(self, denoiser: FFDNet, *, sigma: float) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.sigma = sigma

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Purify x (N, C, H, W), finite and on purpose not clipped to the box."""
        noisy = x + self.sigma * rng.normal_like(x)
        noise: Tensor = self.denoiser(noisy, self.sigma)
        return noisy - noise

    def noise_alone(self) -> Gaussian:
        """Build the purifier that adds the noise, and does not take it off."""
        return Gaussian(sigma=self.sigma)


@dataclass(frozen=True)
class Ffdnet:
    """Add N(0, sigma^2), and denoise by FFDNet as published (Zhang, Zuo and Zhang 2018)."""

    sigma: Annotated[float, Field(gt=0, le=_STRONGEST)] = 0.25

    revision: ClassVar[int] = 1
    kind: ClassVar[str] = "museum"
    source: ClassVar[str] = "Zhang, Zuo and Zhang 2018, arXiv 1710.04026"
    stochastic: ClassVar[bool] = True
    differentiable: ClassVar[bool] = True

    @staticmethod
    def recipe(dataset: str) -> dict[str, Any]:
        """Return the shipped parameters for a data set."""
        return recipe("ffdnet", dataset)

    def certified_noise(self) -> float:
        """Return sigma: denoising and classifying are a deterministic map of x + noise."""
        return self.sigma

    def purifier(self, *, shape: tuple[int, ...]) -> DenoisedSmoothing:
        """Make the purifier of the published weights for images of a shape (C, H, W).

        Raises PluginError for other shapes, DataError without the weights, CheckpointError
        where they are others.
        """
        if shape[0] not in _WIDTHS or shape[1] % 2 or shape[2] % 2:
            raise PluginError(
                "ffdnet takes gray or colour images of even height and width; these are "
                f"{' x '.join(map(str, shape))}. Use another purifier on this data set."
            )
        denoiser = load_weights(FFDNet(shape[0]), _PUBLISHED[shape[0]].found())
        return DenoisedSmoothing(denoiser, sigma=self.sigma)

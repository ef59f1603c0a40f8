"""Gaussian noise and vote: randomized smoothing (Cohen et al. 2019, section 3.2).

The control for every purifier that adds noise: a gain that this one has too is due to the
noise. The vote is the judge's, over its draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from bench.api import Rng


@dataclass(frozen=True)
class Gaussian:
    """Add N(0, sigma^2) to every pixel; sigma in units of the pixel range [0, 1]."""

    sigma: Annotated[float, Field(gt=0)] = 0.25

    revision: ClassVar[int] = 1
    kind: ClassVar[str] = "filters"
    source: ClassVar[str] = "Cohen, Rosenfeld and Kolter 2019, arXiv 1902.02918"
    stochastic: ClassVar[bool] = True
    differentiable: ClassVar[bool] = True

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Return noisy images (N, C, H, W), finite and on purpose not clipped to the box.

        Smoothing feeds the classifier unclipped noise, and a clip would hide the gradient of
        about half of all black and white pixels.
        """
        return x + self.sigma * rng.normal_like(x)

    def certified_noise(self) -> float:
        """Return sigma: the image is seen through x + N(0, sigma^2) only.

        What follows is the classifier, a deterministic map of the noisy image. A clip or a
        rounding in between would be one as well: the theorem asks nothing of the map but that
        it sees no more of the image than that (Cohen et al. 2019, theorem 1).
        """
        return self.sigma

    def noise_alone(self) -> Gaussian:
        """Return itself: there is nothing but noise."""
        return self

"""PluginName, a purifier. Replace the inside of purify by your own."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from bench.api import Rng
from pydantic import Field
from torch import Tensor


@dataclass(frozen=True)
class PluginName:
    """Move every pixel towards gray by a share ``pull``, and add noise of ``sigma``."""

    pull: Annotated[float, Field(ge=0, le=1)] = 0.1
    sigma: Annotated[float, Field(gt=0)] = 0.05

    revision: ClassVar[int] = 1  # raise it when results change
    stochastic: ClassVar[bool] = True  # whether two draws of an image may differ
    differentiable: ClassVar[bool] = True  # whether autograd gives the true gradient

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Clean x (N, C, H, W) in [0, 1]; ``rng`` has one stream of chance per image."""
        return x + self.pull * (0.5 - x) + self.sigma * rng.normal_like(x)

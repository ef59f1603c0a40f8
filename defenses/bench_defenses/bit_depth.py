"""Bit-depth reduction (Xu et al. 2018, "Feature squeezing", section III-A)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from bench.api import Rng


@dataclass(frozen=True)
class BitDepth:
    """Round every pixel to the nearest of 2^bits levels between 0 and 1."""

    bits: Annotated[int, Field(ge=1, le=8)] = 3

    revision: ClassVar[int] = 1
    kind: ClassVar[str] = "filters"
    source: ClassVar[str] = "Xu, Evans and Qi 2018, Feature Squeezing, arXiv 1704.01155"
    stochastic: ClassVar[bool] = False
    differentiable: ClassVar[bool] = False  # a staircase: flat almost everywhere

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Return images (N, C, H, W) whose pixels are multiples of 1 / (2^bits - 1)."""
        top = (1 << self.bits) - 1
        # By a tensor: CUDA divides by a number through its reciprocal, which rounds otherwise.
        return (x * top).round() / x.new_full((), top)

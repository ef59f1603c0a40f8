"""Median filter (Xu et al. 2018, "Feature squeezing", section III-B).

Three lines of torch, on any device and with autograd: kornia gives the same pixels for another
2.4 s of import.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from bench.api import PluginError, Rng


@dataclass(frozen=True)
class Median:
    """Replace every pixel by the median of the ``size`` x ``size`` window around it."""

    size: Literal[3, 5, 7] = 3

    revision: ClassVar[int] = 1
    kind: ClassVar[str] = "filters"
    source: ClassVar[str] = "Xu, Evans and Qi 2018, Feature Squeezing, arXiv 1704.01155"
    stochastic: ClassVar[bool] = False
    differentiable: ClassVar[bool] = True  # each output is one input pixel, smooth off ties

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Return filtered images (N, C, H, W), each channel by itself, mirrored at the rim."""
        reach = self.size // 2
        padded = _mirrored(_mirrored(x, reach, dim=2), reach, dim=3)
        windows = padded.unfold(2, self.size, 1).unfold(3, self.size, 1).flatten(-2)
        # Not Tensor.median: CUDA refuses it where deterministic algorithms are asked for.
        return windows.sort(dim=-1).values[..., self.size**2 // 2]


def _mirrored(x: Tensor, reach: int, *, dim: int) -> Tensor:
    """Reflect ``reach`` rows or columns at both rims, as torch's padding does.

    On CUDA the gradient of torch's adds by atomics, and is not repeatable to the bit.
    """
    far = x.shape[dim] - 1
    if reach > far:
        raise PluginError(
            f"a median of {2 * reach + 1} pixels needs images of {reach + 1} pixels and more; "
            f"these have {far + 1}. Set defense.size to a smaller one."
        )
    low, high = x.narrow(dim, 1, reach), x.narrow(dim, far - reach, reach)
    return torch.cat((low.flip(dim), x, high.flip(dim)), dim)

"""Total-variation minimisation (Rudin, Osher and Fatemi 1992; a defense in Guo et al. 2018).

Chambolle's fixed-point iteration (2004, equation 9) in torch and not scikit-image's: the same
numbers, for a whole batch on any device, and with a true gradient, so that full access
works. Guo et al. also drop pixels at random; this defense does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from bench.api import Rng

_TAU = 0.25  # step of the dual iteration: 1 / (2 * dimensions)


@dataclass(frozen=True)
class TvMin:
    """Find u that minimises TV(u) + |u - x|^2 / (2 weight), each channel by itself."""

    weight: Annotated[float, Field(gt=0)] = 0.1
    steps: Annotated[int, Field(ge=1)] = 50

    revision: ClassVar[int] = 1
    kind: ClassVar[str] = "filters"
    source: ClassVar[str] = "Guo et al. 2018, arXiv 1711.00117"
    stochastic: ClassVar[bool] = False
    differentiable: ClassVar[bool] = True

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Return piecewise flat images (N, C, H, W) after ``steps`` dual steps."""
        dual = x.new_zeros(2, *x.shape)
        u = x
        for _ in range(self.steps):
            slope = _gradient(u)
            steepness = torch.linalg.vector_norm(slope, dim=0)  # its gradient is 0 at 0
            dual = (dual - _TAU * slope) / (1 + _TAU / self.weight * steepness)
            u = x - _divergence(dual)
        return u


def _gradient(u: Tensor) -> Tensor:
    """Forward differences (2, N, C, H, W) of u (N, C, H, W), zero at the far rims."""
    return torch.stack((F.pad(u.diff(dim=-2), (0, 0, 0, 1)), F.pad(u.diff(dim=-1), (0, 1))))


def _divergence(p: Tensor) -> Tensor:
    """Minus the adjoint of ``_gradient``: (2, N, C, H, W) to (N, C, H, W)."""
    return F.pad(p[0], (0, 0, 1, 0)).diff(dim=-2) + F.pad(p[1], (1, 0)).diff(dim=-1)

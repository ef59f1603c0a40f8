"""Random signs: perturbations as large as an attack's that know nothing of any network."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bench.api import Norm


def random_signs(x: Tensor, *, norm: Norm, radius: float, generator: torch.Generator) -> Tensor:
    """Move every pixel of x (N, C, H, W) up or down by the same amount, clipped to [0, 1].

    The amount is the radius (Linf), or the radius over the root of the number of pixels (L2).
    """
    amount = radius if norm is Norm.LINF else radius / math.sqrt(x[0].numel())
    signs = 2 * torch.randint(2, x.shape, generator=generator).to(x) - 1
    return (x + amount * signs).clamp(0.0, 1.0)

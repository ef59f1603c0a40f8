"""The geometry of a threat model: pure functions on images (N, C, H, W)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bench.threat import Norm

_CLIPPINGS = 3  # ten bring nothing that an attack would notice
_ROUNDING = 2.0**-23  # by which float32 may miss the level that a pixel stands for


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """Shape per-image values (N,) so that they broadcast over images (N, C, H, W)."""
    return values.reshape(-1, *(1,) * (like.ndim - 1))


def size(delta: Tensor, norm: Norm) -> Tensor:
    """Measure perturbations (N, C, H, W) in a norm, (N,)."""
    flat = delta.flatten(1)
    return flat.abs().amax(1) if norm is Norm.LINF else flat.norm(dim=1)


def project(x_adv: Tensor, x: Tensor, norm: Norm, radius: float) -> Tensor:
    """Return the points of ball and box nearest to x_adv for Linf; near to it for L2.

    The nearest point for L2 is clip(x + s (x_adv - x)) with the largest s <= 1 that keeps it in
    the ball. Clipping shortens a perturbation, so s grows by what was lost, a few times: as
    clipping only loses more, that comes near to the sphere and never past it.
    """
    if not math.isfinite(radius):
        return x_adv.clamp(0.0, 1.0)
    delta = x_adv - x
    if norm is Norm.LINF:
        return delta.clamp_(-radius, radius).add_(x).clamp_(0.0, 1.0)
    share, clipped = torch.ones_like(delta[:, 0, 0, 0], dtype=torch.float64), delta
    for _ in range(1 + _CLIPPINGS):
        # In float64: a float32 sum over many pixels misses the radius by more than 1e-6.
        length = size(clipped.double(), norm).clamp_min(1e-12)
        share = (share * radius / length).clamp_max(1.0)
        shown = (x + per_image(share, delta).to(delta.dtype) * delta).clamp(0.0, 1.0)
        clipped = shown - x
    return shown


def steepest(gradient: Tensor, norm: Norm) -> Tensor:
    """Return the unit step that raises a linear loss most: sign (Linf), g / |g| (L2)."""
    if norm is Norm.LINF:
        return gradient.sign()
    return gradient / per_image(size(gradient, norm).clamp_min(1e-12), gradient)


def rounded(x_adv: Tensor, x: Tensor, bits: int) -> Tensor:
    """Round x_adv to multiples of 1/(2**bits - 1), towards x (N, C, H, W): legal stays legal.

    Per pixel it is the level nearest to x_adv among those not farther from x than x_adv; where
    there is none (both lie within one level) it is the level nearest to x_adv.
    """
    top = 2**bits - 1
    seen, clean = x_adv.to(x.dtype).double(), x.double()

    def level(step: Tensor) -> Tensor:
        return torch.div(step, top).to(x.dtype)

    nearest = level((seen * top).round())
    inner = level(torch.where(seen > clean, (seen * top).floor(), (seen * top).ceil()))
    reach = (seen - clean).abs() + _ROUNDING

    def as_near(found: Tensor) -> Tensor:
        return torch.le((found.double() - clean).abs(), reach)

    return torch.where(as_near(nearest) | ~as_near(inner), nearest, inner)

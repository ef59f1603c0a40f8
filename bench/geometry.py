"""The geometry of a threat model: pure functions on images (N, C, H, W)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bench.threat import Norm

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

    For L2 the ball comes first and the box second: clipping towards [0, 1], where x lies,
    never leaves the ball.
    """
    if math.isfinite(radius):
        delta = x_adv - x
        if norm is Norm.LINF:
            delta = delta.clamp(-radius, radius)
        else:
            # In float64: a float32 sum over many pixels misses the radius by more than 1e-6.
            length = size(delta.double(), norm).clamp_min(1e-12)
            delta = delta * per_image((radius / length).clamp_max(1.0), delta).to(delta.dtype)
        x_adv = x + delta
    return x_adv.clamp(0.0, 1.0)


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

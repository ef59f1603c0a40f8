"""The geometry of a threat model: pure functions on images (N, C, H, W)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bench.core.threat import Norm

_CLIPPINGS = 3  # with ten no attack is stronger
_ROUNDING = 2.0**-23  # how far float32 may be from the level that a pixel stands for


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """Shape per-image values (N,) so that they broadcast over images (N, C, H, W)."""
    return values.reshape(-1, *(1,) * (like.ndim - 1))


def size(delta: Tensor, norm: Norm) -> Tensor:
    """Measure perturbations (N, C, H, W) in a norm, (N,)."""
    flat = delta.flatten(1)
    return flat.abs().amax(1) if norm is Norm.LINF else flat.norm(dim=1)


@dataclass(frozen=True)
class Ball:
    """What a threat model allows around images x (N, C, H, W): a norm ball within the box.

    ``low`` and ``high`` (N, C, H, W) bound each pixel: by the ball and the box for Linf, by the
    box for L2. An attack projects many times onto one ball, so they are computed once.
    """

    x: Tensor
    norm: Norm
    radius: float
    low: Tensor
    high: Tensor

    @classmethod
    def around(cls, x: Tensor, norm: Norm, radius: float) -> Ball:
        """Build the ball of a radius, in pixels of [0, 1], around images x (N, C, H, W)."""
        reach = radius if norm is Norm.LINF else math.inf
        low, high = (x - reach).clamp_min_(0.0), (x + reach).clamp_max_(1.0)
        return cls(x, norm, radius, low, high)

    def __getitem__(self, rows: Tensor) -> Ball:
        """Keep some images, by index (m,) or mask (N,)."""
        return replace(self, x=self.x[rows], low=self.low[rows], high=self.high[rows])

    def project(self, x_adv: Tensor) -> Tensor:
        """Return the points of ball and box nearest to x_adv for Linf; near to it for L2.

        The nearest point for L2 is clip(x + s (x_adv - x)) with the largest s <= 1 that keeps
        it in the ball. Clipping shortens a perturbation, so s grows by what was lost, a few
        times. Each clipping loses more, so the result approaches the sphere from inside.
        """
        if self.norm is Norm.LINF or not math.isfinite(self.radius):
            return x_adv.clamp(self.low, self.high)
        delta = x_adv - self.x
        share, clipped = torch.ones_like(delta[:, 0, 0, 0], dtype=torch.float64), delta
        for _ in range(1 + _CLIPPINGS):
            # In float64: a float32 sum over many pixels misses the radius by more than 1e-6.
            length = size(clipped.double(), self.norm).clamp_min(1e-12)
            share = (share * self.radius / length).clamp_max(1.0)
            shown = self.x + per_image(share, delta).to(delta.dtype) * delta
            shown = shown.clamp(self.low, self.high)
            clipped = shown - self.x
        return shown


def project(x_adv: Tensor, x: Tensor, norm: Norm, radius: float) -> Tensor:
    """Project x_adv onto the ball around x (N, C, H, W) once: see ``Ball.project``."""
    return Ball.around(x, norm, radius).project(x_adv)


def steepest(gradient: Tensor, norm: Norm) -> Tensor:
    """Return the unit step that raises a linear loss most: sign (Linf), ``g / |g|`` (L2).

    Pixels whose gradient is NaN stay where they are; for L2 also infinite ones.
    """
    if norm is Norm.LINF:
        return gradient.sign()
    gradient = gradient.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    return gradient / per_image(size(gradient, norm).clamp_min(1e-12), gradient)


def rounded(x_adv: Tensor, x: Tensor, bits: int) -> Tensor:
    """Round x_adv to multiples of 1/(2**bits - 1), towards x (N, C, H, W), so it stays legal.

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

"""Langevin dynamics on an energy, and its exact gradient with memory for the states only."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from bench.api import Norm, Rng, size
from bench_defenses.energies.graphs import ReplayedPasses


def energy_gradient(energy: nn.Module, x: Tensor, *, create_graph: bool = False) -> Tensor:
    """Return the gradient (N, C, H, W) of each image's own energy at x."""
    with torch.inference_mode(False), torch.enable_grad():
        if x.is_inference():
            x = x.clone()  # a tensor of inference_mode has no gradient ever
        leaf = x if x.requires_grad else x.detach().requires_grad_()
        found = energy(leaf)
        (gradient,) = torch.autograd.grad(
            found, leaf, torch.ones_like(found), create_graph=create_graph
        )
    return gradient


def curvature(energy: nn.Module, x: Tensor, outer: Tensor) -> Tensor:
    """Multiply each image's Hessian of its energy at x with outer: both (N, C, H, W)."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        gradient = energy_gradient(energy, leaf, create_graph=True)
        if not gradient.requires_grad:  # a linear energy has none
            return torch.zeros_like(outer)
        (bent,) = torch.autograd.grad(gradient, leaf, outer)
    return bent


_gradient = ReplayedPasses(energy_gradient, backwards=1)
_curvature = ReplayedPasses(curvature, backwards=2)


def mean_cosine(one: Tensor, other: Tensor) -> Tensor:
    """Return the mean cosine () between images or gradients (N, C, H, W); 0 where one is 0."""
    lengths = size(one, Norm.L2) * size(other, Norm.L2)
    return ((one * other).flatten(1).sum(1) / lengths.clamp_min(1e-12)).mean()


class LangevinStep(torch.autograd.Function):
    """x, e -> clamp(x - s grad E(x) + e), differentiable in x.

    x (N, C, H, W) and noise e (N * draws, C, H, W), the draws of an image side by side: all
    draws that begin at one image share its gradient. The Jacobian is I - s Hessian(E) inside
    the box and 0 on its border; it does not depend on the noise. Backwards, the energy is
    replayed at the stored state: one vector-Jacobian product per step and image, and no
    activation outlives it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, noise: Tensor, energy: nn.Module, step: float) -> Tensor:
        """Take the step."""
        drift = x - step * _gradient(energy, x)
        if len(noise) > len(x):
            drift = drift.repeat_interleave(len(noise) // len(x), dim=0)
        moved = (drift + noise).clamp_(0.0, 1.0)
        ctx.save_for_backward(x, moved)
        ctx.energy, ctx.step = energy, step
        return moved

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None, None]:
        """Multiply the outer gradient with the step's Jacobian."""
        x, moved = ctx.saved_tensors
        inside = outer[0] * ((moved > 0) & (moved < 1))
        if len(moved) > len(x):
            inside = inside.unflatten(0, (len(x), -1)).sum(1)
        return inside - ctx.step * _curvature(ctx.energy, x, inside), None, None, None


class Flat(nn.Module):
    """The energy that is 0 everywhere and moves no image."""

    def forward(self, x: Tensor) -> Tensor:
        """Return zeros (N,) for x (N, C, H, W)."""
        return (0 * x).flatten(1).sum(1)


class LangevinPurifier(nn.Module):
    """Purify by K steps x <- clamp(x - s grad E(x) + e normal)."""

    def __init__(
        self, energy: nn.Module, *, steps: int, step_size: float, noise: float
    ) -> None:
        super().__init__()
        self.energy = energy
        self.steps = steps
        self.step_size = step_size
        self.noise = noise
        self.differentiable = True
        self.stochastic = noise > 0

    def step(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Take one purification step from x (N, C, H, W) per stream of rng (N * draws)."""
        if self.noise:
            noise = rng.normal_like(x).mul_(self.noise)
        else:
            noise = x.new_zeros(len(rng), *x.shape[1:])
        moved: Tensor = LangevinStep.apply(x, noise, self.energy, self.step_size)
        return moved

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Take all steps from x (N, C, H, W), with fresh noise at each."""
        for k in range(self.steps):
            x = self.step(x, rng=rng.fork("langevin", k))
        return x

    def purify_draws(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Take all steps from x (N, C, H, W) per stream of rng (N * draws).

        The first step has the same gradient in every draw, so it is computed once.
        """
        return self.purify(x, rng=rng)

    def coarser(self, factor: int) -> LangevinPurifier:
        """Build the process of K' = ceil(K / factor) steps with the same total drift and noise.

        The steps are K / K' times longer and their noise sqrt(K / K') times larger, so that the
        total drift and the total variance of the noise stay the same.
        """
        steps = -(-self.steps // factor)
        longer = self.steps / steps
        return LangevinPurifier(
            self.energy,
            steps=steps,
            step_size=self.step_size * longer,
            noise=self.noise * math.sqrt(longer),
        )

    def noise_alone(self) -> LangevinPurifier:
        """Build K steps x <- clamp(x + e normal) of the same noise, without the energy."""
        return LangevinPurifier(Flat(), steps=self.steps, step_size=0.0, noise=self.noise)

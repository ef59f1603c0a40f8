"""BPDA whose backward pass is that of a small network, fitted to the purifier in the ball.

Athalye, Carlini and Wagner 2018, arXiv 1802.00420, section 4.1: the backward pass of BPDA is
that of a differentiable function close to the purifier, of which the identity is the simplest.
"""

# ruff: noqa: ARG002, D101, D102, D103
from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bench.api import Access, AttackWarning, Calls, Norm, Rng, ThreatModel, View
from bench_attacks.apgd import Apgd
from bench_attacks.pgd import random_point


@dataclass(frozen=True)
class Learned:
    """Auto-PGD of BPDA on the margin, with the identity or a network of ``fit`` steps."""

    steps: int = 50
    fit: int = 200

    revision: ClassVar[int] = 1
    norms: ClassVar[tuple[Norm, ...]] = (Norm.LINF, Norm.L2)
    accesses: ClassVar[tuple[Access, ...]] = (Access.BPDA,)
    unbounded: ClassVar[bool] = False

    def __call__(
        self, view: View, x: Tensor, y: Tensor, *, threat: ThreatModel, rng: Rng
    ) -> Tensor:
        """Return Auto-PGD's image (N, C, H, W) against the labels y (N,)."""
        net = fitted(view, x, threat, self.fit, rng.fork("fit"))
        error, plain = errors(view, net, x, threat, rng.fork("error"))
        fits = "" if error < plain else ", and does not fit"
        warnings.warn(
            f"the learned backward is off by {error:.3f}, the identity by {plain:.3f}, of what "
            f"the purifier's images vary by{fits}",
            AttackWarning,
            stacklevel=2,
        )
        attack = Apgd(steps=self.steps, eot=1, loss="margin")
        return attack(LearnedView(view, net), x, y, threat=threat, rng=rng)

    def calls(self, *, stochastic: bool, classes: int) -> Calls:
        """Bound the cost of one image, without the fit."""
        return Calls(forward=1, backward=self.steps)


class Imitation(nn.Module):
    """x + a small network of x, (N, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(channels, 16, 5, padding=2), nn.SiLU(),
            nn.Conv2d(16, 16, 3, padding=1), nn.SiLU(),
            nn.Conv2d(16, channels, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.net(x)


def points(x: Tensor, threat: ThreatModel, rng: Rng) -> Tensor:
    """Draw points between the images and random points of their balls' corners."""
    corners = x + threat.radius * (2 * rng.fork("side").uniform_like(x).round() - 1)
    far = rng.fork("share").uniform(()).to(x.dtype)[:, None, None, None]
    other = random_point(x, threat, rng.fork("inside"))
    pick = rng.fork("pick").uniform_like(x) < 0.5
    return torch.where(pick, torch.lerp(x, corners, far), other).clamp(0, 1)


def fitted(view: Any, x: Tensor, threat: ThreatModel, steps: int, rng: Rng) -> Imitation:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Imitation(x.shape[1])
    adam = torch.optim.Adam(net.parameters(), lr=3e-3)
    plan = torch.optim.lr_scheduler.OneCycleLR(adam, max_lr=3e-3, total_steps=steps)
    with torch.enable_grad():
        for step in range(steps):
            rows = (torch.arange(min(32, len(x)), device=x.device) + 32 * step) % len(x)
            at = points(x[rows], threat, rng[rows].fork(step))
            with torch.no_grad():
                target = view.defense.purify(at, rng=rng[rows].fork(step, "purify"))
            loss = (net(at) - target).square().mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
            plan.step()
    return net.requires_grad_(False)


def errors(
    view: Any, net: Imitation, x: Tensor, threat: ThreatModel, rng: Rng
) -> tuple[float, float]:
    """Return the squared errors of network and identity, over what images vary by."""
    at = points(x, threat, rng)
    with torch.no_grad():
        target = view.defense.purify(at, rng=rng)
        scale = (target - target.mean(0)).square().mean()
        return tuple(float((g - target).square().mean() / scale) for g in (net(at), at))


@dataclass(frozen=True)
class LearnedView:
    inner: Any
    net: Imitation

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def __call__(self, x: Tensor, *, rng: Rng) -> Tensor:
        with torch.no_grad():
            purified = self.inner.defense.purify(x, rng=rng)
        x = x.repeat_interleave(len(rng) // len(x), dim=0)
        shown = self.net(x)
        return self.inner.defense.classify(shown + (purified - shown).detach())

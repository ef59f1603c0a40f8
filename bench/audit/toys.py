"""Toy defenses whose answer is known: no purifier, and those that only look robust."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.core.rng import Rng


class Untouched:
    """No purifier: the bare classifier as a defense."""

    stochastic = False
    differentiable = True

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Return the images (N, C, H, W) themselves."""
        return x


class NoGradient:
    """Claims a gradient and detaches it: the images pass as they are."""

    stochastic = False
    differentiable = True

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Return the values of the images (N, C, H, W) without their history."""
        return x.detach().clone()


class Quantizer:
    """Claims a gradient and is a staircase of 2^bits levels: the gradient is 0."""

    stochastic = False
    differentiable = True

    def __init__(self, bits: int) -> None:
        self.bits = bits

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Return images (N, C, H, W) whose pixels are multiples of 1 / (2^bits - 1)."""
        top = (1 << self.bits) - 1
        return (x * top).round() / x.new_full((), top)  # see bench_defenses.bit_depth


class Saturated(nn.Module):
    """A classifier with logits so large that cross-entropy is 0 and has no gradient."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        """Return the classifier's logits (N, K), many times larger."""
        logits: Tensor = 1e4 * self.classifier(x)
        return logits


class RandomShift:
    """Randomness as a defense: whole pixels of shift, at random, that wrap around."""

    stochastic = True
    differentiable = True

    def __init__(self, reach: int) -> None:
        self.reach = reach  # in pixels, each way

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Return shifted images (N, C, H, W)."""
        count, channels, height, width = x.shape
        offsets = (rng.uniform((2,)) * (2 * self.reach + 1)).long() - self.reach
        down, across = offsets.unbind(1)
        rows = (torch.arange(height, device=x.device) + down[:, None]) % height
        columns = (torch.arange(width, device=x.device) + across[:, None]) % width
        image = torch.arange(count, device=x.device)[:, None, None, None]
        channel = torch.arange(channels, device=x.device)[None, :, None, None]
        return x[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


class LeakyEnergy(nn.Module):
    """Langevin steps on a piecewise linear energy: its Hessian is 0 almost everywhere.

    The full gradient is there and is that of BPDA: an attack that claims to see through the
    purifier sees nothing of it.
    """

    stochastic = True
    differentiable = True

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        steps: int = 5,
        step_size: float = 1.0,
        noise: float = 0.02,
        width: int = 8,
    ) -> None:
        super().__init__()
        self.steps = steps
        self.step_size = step_size
        self.noise = noise
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.energy = nn.Sequential(
                nn.Conv2d(shape[0], width, 3, padding=1),
                nn.LeakyReLU(0.1),
                nn.Conv2d(width, width, 3, padding=1),
                nn.LeakyReLU(0.1),
                nn.Flatten(),
                nn.Linear(width * shape[1] * shape[2], 1),
            )

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Take all steps from x (N, C, H, W)."""
        for k in range(self.steps):
            noise = self.noise * rng.fork("step", k).normal_like(x)
            x = (x - self.step_size * self._slope(x) + noise).clamp(0.0, 1.0)
        return x

    def _slope(self, x: Tensor) -> Tensor:
        wanted = torch.is_grad_enabled() and x.requires_grad
        with torch.enable_grad():
            leaf = x if wanted else x.detach().requires_grad_()
            energy = self.energy(leaf).sum()
            (slope,) = torch.autograd.grad(energy, leaf, create_graph=wanted)
        return slope

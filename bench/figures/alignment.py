"""How much gradients and perturbations look like the target: pure functions on images."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.core.eot import averaged_gradient
from bench.core.geometry import project, steepest
from bench.core.losses import cross_entropy
from bench.core.protocols import Images, View
from bench.core.rng import Rng
from bench.core.threat import ThreatModel

_HALF_NYQUIST = 0.25  # cycles per pixel


def targets(images: Images, *, classes: int) -> Tensor:
    """Choose a wrong class (N,) for every image, by its index: all of them in turn."""
    return (images.y + 1 + images.indices % (classes - 1)) % classes


def class_means(images: Images, *, classes: int) -> Tensor:
    """Average the images of every class, (K, C, H, W)."""
    return torch.stack([images.x[images.y == k].mean(0) for k in range(classes)])


def cosine(one: Tensor, other: Tensor) -> Tensor:
    """Measure the cosine (N,) between images (N, C, H, W); 0 where one of them is 0."""
    return torch.nn.functional.cosine_similarity(one.flatten(1), other.flatten(1), dim=1)


def high_frequency_share(delta: Tensor) -> Tensor:
    """Return the share (N,) of the energy of images (N, C, H, W) above half of Nyquist.

    The frequency of a wave is the length of its vector, so that the direction does not matter;
    an image that is 0 has the share 0.
    """
    power = torch.fft.fft2(delta.double()).abs() ** 2
    across, down = (torch.fft.fftfreq(size, dtype=torch.float64) for size in delta.shape[2:])
    high = (torch.hypot(across[:, None], down) > _HALF_NYQUIST).to(power)
    total = power.sum((1, 2, 3)).clamp_min(torch.finfo(torch.float64).tiny)
    share: Tensor = (power * high).sum((1, 2, 3)) / total
    return share


def towards(view: View, x: Tensor, target: Tensor, *, draws: int, rng: Rng) -> Tensor:
    """Return the gradient (N, C, H, W) at x along which the target (N,) becomes likelier."""
    found = averaged_gradient(view, x, target, loss=cross_entropy, draws=draws, rng=rng)
    return -found.gradient


def targeted(
    view: View,
    x: Tensor,
    target: Tensor,
    *,
    threat: ThreatModel,
    steps: int,
    draws: int,
    rng: Rng,
) -> Tensor:
    """Descend the cross entropy of the target (N,) from x (N, C, H, W) by PGD.

    It begins at x and returns the last iterate: noise of a random start would be counted
    among the high frequencies of the perturbation.
    """
    x_adv, step = x, 2.5 * threat.radius / steps
    for t in range(steps):
        gradient = towards(view, x_adv, target, draws=draws, rng=rng.fork("targeted", t))
        moved = x_adv + step * steepest(gradient, threat.norm)
        x_adv = project(moved, x, threat.norm, threat.radius)
    return x_adv

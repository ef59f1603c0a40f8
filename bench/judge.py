"""The judge: what a proposed image is worth, on fresh noise, trusting nothing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.defense import Defense
from bench.errors import PluginError
from bench.geometry import size
from bench.gradient import blocks, images_per_pass
from bench.rng import Rng
from bench.threat import ThreatModel

TOLERANCE = 1e-6  # rounding of a float32 projection, measured in float64


@dataclass(frozen=True)
class Outcomes:
    """One row per image.

    ``distance`` (N,) float64; ``legal`` (N,) inside ball and box; ``clean_votes`` and
    ``votes`` (N, K) int64, draws per class; ``clean`` (N,) the clean vote is right; ``robust``
    (N,) it stays right on the proposed image. An illegal image does not count as a break.
    """

    distance: Tensor
    legal: Tensor
    clean_votes: Tensor
    votes: Tensor
    clean: Tensor
    robust: Tensor


def judge(
    defense: Defense,
    x: Tensor,
    y: Tensor,
    x_adv: Tensor,
    *,
    threat: ThreatModel,
    draws: int,
    rng: Rng,
) -> Outcomes:
    """Judge proposals x_adv for x (N, C, H, W) by ``draws`` votes each; raises PluginError."""
    if not isinstance(x_adv, Tensor) or not x_adv.is_floating_point():
        raise PluginError("the attack returned no floating-point images in [0, 1].")
    if x_adv.shape != x.shape:
        raise PluginError(
            f"the attack returned shape {tuple(x_adv.shape)} for images {tuple(x.shape)}. "
            "An attack returns one image for each that it is given."
        )
    x_adv = x_adv.detach().to(x)  # what counts is the image that the defense sees
    distance = size(x_adv.double() - x.double(), threat.norm)
    box = ((x_adv >= 0) & (x_adv <= 1)).flatten(1).all(1)
    legal = box & (distance <= threat.radius + TOLERANCE)  # NaN compares false
    clean_votes = vote(defense, x, draws=draws, rng=rng.fork("clean"))
    # What is illegal is never shown to the defense: it might be NaN.
    shown = torch.where(legal.reshape(-1, 1, 1, 1), x_adv, x)
    votes = vote(defense, shown, draws=draws, rng=rng.fork("adversarial"))
    clean = elected(clean_votes, y)
    robust = clean & (elected(votes, y) | ~legal)
    return Outcomes(distance, legal, clean_votes, votes, clean, robust)


def vote(defense: Defense, x: Tensor, *, draws: int, rng: Rng) -> Tensor:
    """Count the classes (N, K) that the defense sees in x (N, C, H, W) over its draws."""
    draws = draws if defense.stochastic else 1
    counted = []
    with torch.no_grad():
        for block in blocks(len(x), images_per_pass(x.device, draws)):
            rows = x[block].repeat_interleave(draws, dim=0)
            purified = defense.purify(rows, rng=rng[block].repeat(draws))
            logits = defense.classify(purified)
            if bool(logits.isnan().any()):
                raise PluginError(
                    "the defense returned NaN for images of the box [0, 1]. Check the "
                    "purifier's step size and its checkpoint."
                )
            seen = logits.argmax(1, keepdim=True)
            one_hot = torch.zeros_like(logits, dtype=torch.int64).scatter_(1, seen, 1)
            counted.append(one_hot.reshape(-1, draws, logits.shape[1]).sum(1))
    return torch.cat(counted)


def elected(votes: Tensor, y: Tensor) -> Tensor:
    """Say whether the true class has strictly the most votes (N, K): a tie is a loss."""
    true = votes.gather(1, y[:, None])[:, 0]
    return true > votes.scatter(1, y[:, None], -1).amax(1)

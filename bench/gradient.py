"""Loss and gradient averaged over a defense's draws (EOT, Athalye et al. 2018), per image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.losses import Loss
from bench.protocols import View
from bench.rng import Rng

# Rows per pass: on a CPU more rows fall out of the cache, on a GPU fewer leave it idle.
_ROWS = {"cpu": 128, "cuda": 8192}


@dataclass(frozen=True)
class Averaged:
    """Means over draws: ``loss`` (N,), ``wrong`` (N,), the share of draws misclassified."""

    loss: Tensor
    wrong: Tensor


@dataclass(frozen=True)
class AveragedGradient(Averaged):
    """With ``gradient`` (N, C, H, W), the gradient of each image's mean loss."""

    gradient: Tensor


def images_per_pass(device: torch.device, draws: int) -> int:
    """Say how many images fit a pass that folds their draws into the batch."""
    return max(1, _ROWS.get(device.type, 128) // draws)


def blocks(n: int, size: int) -> list[slice]:
    """Cut n rows into slices of a size, the last one shorter."""
    return [slice(start, start + size) for start in range(0, n, size)]


def averaged_gradient(
    view: View, x: Tensor, y: Tensor, *, loss: Loss, draws: int, rng: Rng
) -> AveragedGradient:
    """Average loss and gradient at x (N, C, H, W) over draws folded into the batch."""
    parts = []
    for block in blocks(len(x), images_per_pass(x.device, draws)):
        leaf = x[block].detach().requires_grad_()
        labels = y[block].repeat_interleave(draws)
        # A copy, for purifiers may write.
        logits = view(leaf.clone(), rng=rng[block].repeat(draws))
        values = loss(logits, labels).reshape(-1, draws)
        (gradient,) = torch.autograd.grad(values.sum() / draws, leaf)
        wrong = (logits.argmax(1) != labels).reshape(-1, draws)
        parts.append((values.detach().mean(1), wrong.to(x.dtype).mean(1), gradient))
    losses, wrongs, gradients = zip(*parts, strict=True)
    return AveragedGradient(torch.cat(losses), torch.cat(wrongs), torch.cat(gradients))


def averaged_loss(
    view: View, x: Tensor, y: Tensor, *, loss: Loss, draws: int, rng: Rng
) -> Averaged:
    """Average the loss at x (N, C, H, W) over draws folded into the batch; no gradient."""
    parts = []
    with torch.no_grad():
        for block in blocks(len(x), images_per_pass(x.device, draws)):
            labels = y[block].repeat_interleave(draws)
            logits = view(x[block].clone(), rng=rng[block].repeat(draws))
            wrong = (logits.argmax(1) != labels).reshape(-1, draws)
            parts.append(
                (loss(logits, labels).reshape(-1, draws).mean(1), wrong.to(x.dtype).mean(1))
            )
    losses, wrongs = zip(*parts, strict=True)
    return Averaged(torch.cat(losses), torch.cat(wrongs))

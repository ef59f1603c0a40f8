"""Loss and gradient averaged over a defense's draws, per image: EOT.

Athalye et al. 2018, "Synthesizing Robust Adversarial Examples", arXiv 1707.07397.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.core.batch_size import in_blocks
from bench.core.border import DETACHED
from bench.core.losses import Loss, Towards
from bench.core.protocols import View
from bench.core.rng import Rng
from bench.errors import PluginError


@dataclass(frozen=True)
class Averaged:
    """Means over draws: ``loss`` (N,), ``wrong`` (N,), the share of draws misclassified."""

    loss: Tensor
    wrong: Tensor


@dataclass(frozen=True)
class AveragedGradient(Averaged):
    """With ``gradient`` (N, C, H, W), the gradient of each image's mean loss."""

    gradient: Tensor


def averaged_gradient(
    view: View, x: Tensor, y: Tensor, *, loss: Loss, draws: int, rng: Rng
) -> AveragedGradient:
    """Average loss and gradient at x (N > 0, C, H, W) over draws folded into the batch."""

    def of(block: slice) -> tuple[Tensor, Tensor, Tensor]:
        leaf = x[block].detach().requires_grad_()
        values, wrong = _seen(view, leaf, y[block], loss, draws, rng[block], block)
        if not values.requires_grad:
            raise PluginError(
                f"no gradient passes the defense under {view.access} access: {DETACHED}"
            )
        (gradient,) = torch.autograd.grad(values.sum() / draws, leaf)
        return values.detach().mean(1), wrong, gradient

    parts = in_blocks(of, len(x), draws=draws, device=x.device)
    return AveragedGradient(*(_joined(blocks) for blocks in zip(*parts, strict=True)))


def averaged_loss(
    view: View, x: Tensor, y: Tensor, *, loss: Loss, draws: int, rng: Rng
) -> Averaged:
    """Average the loss at x (N > 0, C, H, W) over draws folded into the batch; no gradient."""

    def of(block: slice) -> tuple[Tensor, Tensor]:
        values, wrong = _seen(view, x[block], y[block], loss, draws, rng[block], block)
        return values.mean(1), wrong

    with torch.no_grad():
        parts = in_blocks(of, len(x), draws=draws, device=x.device)
    return Averaged(*(_joined(blocks) for blocks in zip(*parts, strict=True)))


def _seen(
    view: View, x: Tensor, y: Tensor, loss: Loss, draws: int, rng: Rng, block: slice
) -> tuple[Tensor, Tensor]:
    """Return the losses (n, draws) of a block of n images, and their share of wrong draws."""
    labels = y.repeat_interleave(draws)
    logits = view(x, rng=rng.repeat(draws))
    values = (loss[block] if isinstance(loss, Towards) else loss)(logits, labels)
    wrong = (logits.argmax(1) != labels).reshape(-1, draws).to(x.dtype).mean(1)
    return values.reshape(-1, draws), wrong


def _joined(blocks: tuple[Tensor, ...]) -> Tensor:
    return torch.cat(blocks) if len(blocks) > 1 else blocks[0]

"""Loss and gradient averaged over a defense's draws, per image: EOT.

Athalye et al. 2018, "Synthesizing Robust Adversarial Examples", arXiv 1707.07397.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.core.batch_size import in_blocks
from bench.core.border import DETACHED
from bench.core.losses import Loss
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
    """Average loss and gradient at x (N, C, H, W) over draws folded into the batch."""

    def of(block: slice) -> tuple[Tensor, Tensor, Tensor]:
        leaf = x[block].detach().requires_grad_()
        labels = y[block].repeat_interleave(draws)
        logits = view(leaf, rng=rng[block].repeat(draws))
        if not logits.requires_grad:
            raise PluginError(
                f"no gradient passes the defense under {view.access} access: {DETACHED}"
            )
        values = loss(logits, labels).reshape(-1, draws)
        (gradient,) = torch.autograd.grad(values.sum() / draws, leaf)
        wrong = (logits.argmax(1) != labels).reshape(-1, draws)
        return values.detach().mean(1), wrong.to(x.dtype).mean(1), gradient

    parts = in_blocks(of, len(x), draws=draws, device=x.device)
    return AveragedGradient(*(_joined(blocks) for blocks in zip(*parts, strict=True)))


def averaged_loss(
    view: View, x: Tensor, y: Tensor, *, loss: Loss, draws: int, rng: Rng
) -> Averaged:
    """Average the loss at x (N, C, H, W) over draws folded into the batch; no gradient."""

    def of(block: slice) -> tuple[Tensor, Tensor]:
        labels = y[block].repeat_interleave(draws)
        logits = view(x[block], rng=rng[block].repeat(draws))
        wrong = (logits.argmax(1) != labels).reshape(-1, draws)
        return loss(logits, labels).reshape(-1, draws).mean(1), wrong.to(x.dtype).mean(1)

    with torch.no_grad():
        parts = in_blocks(of, len(x), draws=draws, device=x.device)
    return Averaged(*(_joined(blocks) for blocks in zip(*parts, strict=True)))


def _joined(blocks: tuple[Tensor, ...]) -> Tensor:
    return torch.cat(blocks) if len(blocks) > 1 else blocks[0]

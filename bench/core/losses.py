"""Losses that attacks maximize: logits (N, K) and labels (N,) to one value per image (N,)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.errors import UsageError

Loss = Callable[[Tensor, Tensor], Tensor]
LossName = Literal["ce", "margin", "dlr"]


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of the true class."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Best other logit minus the true one (Carlini and Wagner 2017): above 0 is wrong."""
    true = logits.gather(1, y[:, None])[:, 0]
    others = logits.scatter(1, y[:, None], -torch.inf)
    return others.amax(1) - true


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Margin over the gap of the first and third logit; see ``margin``.

    Croce and Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of
    diverse parameter-free attacks", arXiv 2003.01690. Scaling or shifting the logits does not
    change it. Raises UsageError below 3 classes.
    """
    if logits.shape[1] < 3:
        raise UsageError(
            f"the loss 'dlr' needs three classes and there are {logits.shape[1]}. Set "
            "attack.loss to 'ce' or 'margin'."
        )
    top = logits.topk(3, dim=1).values
    return margin(logits, y) / (top[:, 0] - top[:, 2] + 1e-12)


@dataclass(frozen=True)
class Towards:
    """The margin z_t - z_y of a target t (N,) for each image, whose draws are side by side."""

    target: Tensor

    def __getitem__(self, block: slice | Tensor) -> Towards:
        return Towards(self.target[block])

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        """Subtract the true logit from the target's."""
        target = self.target.repeat_interleave(len(logits) // max(1, len(self.target)))
        return (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None]))[:, 0]


LOSSES: dict[LossName, Loss] = {"ce": cross_entropy, "margin": margin, "dlr": dlr}

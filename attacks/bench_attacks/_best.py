"""The best proposal of each image so far, shared by the attacks of this package."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.api import Averaged, per_image


@dataclass(frozen=True)
class Best:
    """Best images ``x`` (N, C, H, W), their ``wrong`` share of draws (N,) and ``loss`` (N,)."""

    x: Tensor
    wrong: Tensor
    loss: Tensor

    @classmethod
    def nothing(cls, x: Tensor) -> Best:
        """Start with the clean images, which any offer beats."""
        none = torch.full_like(x[:, 0, 0, 0], -torch.inf)
        return cls(x.clone(), none, none.clone())

    def offer(self, x_adv: Tensor, seen: Averaged) -> None:
        """Keep those of x_adv (N, C, H, W) that are wrong more often, or as often at more loss.

        The wrong share comes first because the judge votes; the loss orders the many proposals
        that fool no draw at all.
        """
        as_often = seen.wrong == self.wrong
        better = (seen.wrong > self.wrong) | (as_often & (seen.loss > self.loss))
        self.x.lerp_(x_adv, chosen(better, x_adv))
        self.wrong.copy_(torch.where(better, seen.wrong, self.wrong))
        self.loss.copy_(torch.where(better, seen.loss, self.loss))

    def undecided(self) -> Tensor:
        """Index the images (m,) that some draw still classifies right; waits for the device."""
        return (self.wrong < 1).nonzero()[:, 0]

    def __getitem__(self, rows: Tensor) -> Best:
        """Copy what is known of some images, by index (m,) or mask (N,)."""
        return Best(self.x[rows], self.wrong[rows], self.loss[rows])

    def put(self, rows: Tensor, part: Best) -> None:
        """Write back what was found for the images of index ``rows`` (m,)."""
        self.x[rows], self.wrong[rows], self.loss[rows] = part.x, part.wrong, part.loss

    def seen(self) -> Averaged:
        """Return what was seen of the best images."""
        return Averaged(self.loss, self.wrong)


def chosen(which: Tensor, like: Tensor) -> Tensor:
    """Make a mask (N,) of images (N, C, H, W) the weights of torch.lerp: 1 takes the end.

    Exact where all is finite, and on a CPU five times as fast as torch.where.
    """
    return per_image(which, like).to(like.dtype)

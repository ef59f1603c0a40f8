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

    def offer(self, x_adv: Tensor, seen: Averaged, rows: Tensor) -> None:
        """Keep those of x_adv (M, C, H, W) that are wrong more often, or as often at more loss.

        ``rows`` (M,) says which images they are. The wrong share comes first because the judge
        votes; the loss orders the many proposals that fool no draw at all.
        """
        wrong, loss = self.wrong[rows], self.loss[rows]
        better = (seen.wrong > wrong) | ((seen.wrong == wrong) & (seen.loss > loss))
        if len(rows) == len(self.x):  # all of them: rows are in order, and no copy is needed
            torch.where(per_image(better, x_adv), x_adv, self.x, out=self.x)
        else:
            self.x[rows] = torch.where(per_image(better, x_adv), x_adv, self.x[rows])
        self.wrong[rows] = torch.where(better, seen.wrong, wrong)
        self.loss[rows] = torch.where(better, seen.loss, loss)

    def seen(self, rows: Tensor) -> Averaged:
        """Return what was seen of the best images of rows (M,)."""
        return Averaged(self.loss[rows], self.wrong[rows])

    def open(self, rows: Tensor) -> Tensor:
        """Keep the rows (M,) that some draw still classifies right; waits for the device."""
        return rows[self.wrong[rows] < 1]

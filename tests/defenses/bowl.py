"""An energy of which the gradient is known."""

from __future__ import annotations

from torch import Tensor, nn


class Bowl(nn.Module):
    """Energy pull / 2 |x - center|^2, whose gradient points back to the center exactly."""

    def __init__(self, center: Tensor, pull: float) -> None:
        super().__init__()
        self.center, self.pull = center, pull

    def forward(self, x: Tensor) -> Tensor:
        return self.pull / 2 * (x - self.center).square().flatten(1).sum(1)

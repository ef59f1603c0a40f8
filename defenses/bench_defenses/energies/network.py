"""The energy network: images (N, C, H, W) in [0, 1] to energies (N,)."""

from __future__ import annotations

from torch import Tensor, nn


class EnergyNet(nn.Module):
    """Four convolutions, width-2-4-4 times ``width`` channels, and a linear head.

    Smooth throughout (SiLU): behind a piecewise linear energy the Hessian vanishes, and the
    full gradient of a purifier silently becomes its BPDA gradient. No normalisation by batch.
    """

    def __init__(self, shape: tuple[int, ...], *, width: int) -> None:
        super().__init__()
        channels, side, _ = shape
        layers: list[nn.Module] = []
        before, kernel = channels, 5
        for after in (width, 2 * width, 4 * width, 4 * width):
            stride = 2 if side > 4 else 1
            layers += [
                nn.Conv2d(before, after, kernel, stride=stride, padding=kernel // 2),
                nn.SiLU(),
            ]
            before, side, kernel = after, -(-side // stride), 3
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.head = nn.Sequential(
            nn.Linear(before * side * side, 4 * width), nn.SiLU(), nn.Linear(4 * width, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the energy (N,) of x (N, C, H, W) in [0, 1]."""
        energy: Tensor = self.head(self.features(2 * x - 1)).squeeze(1)
        return energy

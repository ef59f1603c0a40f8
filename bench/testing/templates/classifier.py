"""PluginName, a classifier. Replace its network by your own."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import torch
from bench.api import read_weights
from pydantic import Field
from torch import Tensor, nn

# Written by torch.save(net.state_dict(), ...).
WEIGHTS = Path(__file__).with_name("plugin_name.pth")


class Network(nn.Module):
    """Images (N, C, H, W) in [0, 1] to logits (N, classes); what it normalizes is in here."""

    def __init__(self, channels: int, classes: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(4 * width, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.layers((x - 0.5) / 0.5)
        return logits


@dataclass(frozen=True)
class PluginName:
    """A network with the weights of that file; without it the network knows nothing."""

    width: Annotated[int, Field(ge=1)] = 16

    revision: ClassVar[int] = 1  # raise it when results change

    def network(self, *, shape: tuple[int, ...], classes: int) -> nn.Module:
        """Make the network for images (C, H, W)."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = Network(shape[0], classes, self.width)
        if not WEIGHTS.exists():
            return net
        return read_weights(net, torch.load(WEIGHTS, map_location="cpu", weights_only=True))

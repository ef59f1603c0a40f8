"""The CIFAR network of airbench94 (Jordan 2024, arXiv 2404.00498): small and quick to train."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from bench.api import Task, read_weights
from bench_defenses._recipe import recipe
from bench_defenses.classifiers.quick import Quick, QuickRecipe

_PATCHES_OF = 5000  # training images whose patches are whitened


def _norm(channels: int) -> nn.BatchNorm2d:
    """Normalise without a scale: the convolution before it has one."""
    norm = nn.BatchNorm2d(channels, momentum=0.4)
    norm.weight.requires_grad_(False)
    return norm


def _halved(x: Tensor) -> Tensor:
    """Take the largest of 2 x 2 pixels, where there are as many."""
    return F.max_pool2d(x, 2) if min(x.shape[2:]) > 1 else x


class _Block(nn.Module):
    """Two 3 x 3 convolutions: (N, before, H, W) to (N, after, H/2, W/2)."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, padding=1, bias=False)
        self.norm1 = _norm(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = _norm(after)
        for conv in (self.conv1, self.conv2):
            nn.init.dirac_(conv.weight.data[: conv.in_channels])  # the others stay random

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.norm1(_halved(self.conv1(x))))
        return F.gelu(self.norm2(self.conv2(x)))


class AirbenchNet(nn.Module):
    """Whitened patches, three blocks, a linear head: (N, C, H, W) in [0, 1] to logits (N, K).

    The blocks have ``width``, 4 ``width`` and 4 ``width`` channels.
    """

    def __init__(self, channels: int, *, classes: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 8 * channels, 2, bias=False)
        self.stem.weight.requires_grad_(False)
        self.blocks = nn.Sequential(
            _Block(8 * channels, width), _Block(width, 4 * width), _Block(4 * width, 4 * width)
        )
        self.head = nn.Linear(4 * width, classes, bias=False)

    def whiten(self, x: Tensor) -> AirbenchNet:
        """Set the stem to the patches' principal axes of unit variance, and their negatives.

        ``x`` (N, C, H, W) are training images; returns the network itself.
        """
        kernel = self.stem.weight.shape[1:]
        patches = F.unfold((x - 0.5) / 0.25, kernel[1:]).transpose(1, 2).flatten(0, 1).double()
        variance, axes = torch.linalg.eigh(patches.T.cov())
        filters = (axes / (variance + 5e-4).sqrt()).T.reshape(-1, *kernel)
        self.stem.weight.data.copy_(torch.cat([filters, -filters]))
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (N, K) of x (N, C, H, W) in [0, 1]."""
        features = self.blocks(F.gelu(self.stem((x - 0.5) / 0.25))).amax(dim=(2, 3))
        logits: Tensor = self.head(features) / 9
        return logits


@dataclass(frozen=True)
class Airbench:
    """The CIFAR network of airbench94 (Jordan 2024), trained in about an hour on a CPU core."""

    width: Annotated[int, Field(ge=1)] = 64
    training: QuickRecipe = field(default_factory=QuickRecipe)

    revision: ClassVar[int] = 1
    kind: ClassVar[str] = "standard"
    source: ClassVar[str] = "Jordan 2024, arXiv 2404.00498"
    needs_classifier: ClassVar[bool] = False

    @staticmethod
    def recipe(dataset: str) -> dict[str, Any]:
        """Return the shipped parameters for a data set."""
        return recipe("airbench", dataset)

    def negatives(self) -> None:
        """Ask for no adversarial images."""

    def start(self, task: Task) -> Quick:
        """Begin training."""
        return Quick(self.training, task, lambda: self.untrained(task))

    def untrained(self, task: Task) -> AirbenchNet:
        """Return a new network, its stem set by the first training images."""
        x = task.train.x
        net = AirbenchNet(x.shape[1], classes=task.classes, width=self.width)
        return net.whiten(x[:_PATCHES_OF].cpu())

    def load(
        self, weights: Mapping[str, Tensor], *, shape: tuple[int, ...], classes: int
    ) -> nn.Module:
        """Build the network; raises CheckpointError where the weights do not fit."""
        net = AirbenchNet(shape[0], classes=classes, width=self.width)
        return read_weights(net, weights)

"""ResNet-18 in its CIFAR form (He et al. 2016): a 3 x 3 stem of stride 1 and no pooling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from bench.api import Task, read_weights
from bench_defenses._recipe import recipe
from bench_defenses.classifiers.supervised import Supervised, SupervisedRecipe


class _Block(nn.Module):
    """Two 3 x 3 convolutions and a shortcut: (N, before, H, W) to (N, after, H/s, W/s)."""

    def __init__(self, before: int, after: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or before != after:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(x + f(x))."""
        inner = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(inner)) + self.shortcut(x))


class ResNet18Net(nn.Module):
    """Four stages of two blocks: (N, C, H, W) in [0, 1], 8 pixels a side or more, to logits.

    ``width`` is the number of channels of the first stage; the last has eight times as many.
    """

    def __init__(self, channels: int, *, classes: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        blocks: list[nn.Module] = []
        before = width
        for after, stride in ((width, 1), (2 * width, 2), (4 * width, 2), (8 * width, 2)):
            blocks += [_Block(before, after, stride=stride), _Block(after, after, stride=1)]
            before = after
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (N, K) of x (N, C, H, W) in [0, 1]."""
        features = self.blocks(F.relu(self.norm(self.stem((x - 0.5) / 0.25))))
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits


@dataclass(frozen=True)
class ResNet18:
    """ResNet-18 with a 3 x 3 stem, the small standard network on CIFAR; needs a GPU."""

    width: Annotated[int, Field(ge=1)] = 64
    training: SupervisedRecipe = field(default_factory=lambda: SupervisedRecipe(epochs=30))

    revision: ClassVar[int] = 1
    kind: ClassVar[str] = "standard"
    source: ClassVar[str] = "He et al. 2016, arXiv 1512.03385"
    needs_classifier: ClassVar[bool] = False

    @staticmethod
    def recipe(dataset: str) -> dict[str, Any]:
        """Return the shipped parameters for a data set."""
        return recipe("resnet18", dataset)

    def negatives(self) -> None:
        """Ask for no adversarial images."""

    def start(self, task: Task) -> Supervised:
        """Begin training."""
        channels = task.train.x.shape[1]
        return Supervised(
            self.training,
            task,
            lambda: ResNet18Net(channels, classes=task.classes, width=self.width),
        )

    def load(
        self, weights: Mapping[str, Tensor], *, shape: tuple[int, ...], classes: int
    ) -> nn.Module:
        """Build the network; raises CheckpointError where the weights do not fit."""
        net = ResNet18Net(shape[0], classes=classes, width=self.width)
        return read_weights(net, weights)

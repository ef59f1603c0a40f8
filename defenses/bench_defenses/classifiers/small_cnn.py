"""A small convolutional classifier for images of 8 x 8 pixels and larger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor, nn

from bench.api import Task, read_weights
from bench_defenses._recipe import recipe
from bench_defenses.classifiers.supervised import Supervised, SupervisedRecipe


class SmallCnnNet(nn.Module):
    """Three convolutions and two linear layers: (N, C, H, W) in [0, 1] to logits (N, K)."""

    def __init__(self, shape: tuple[int, ...], *, classes: int, width: int) -> None:
        super().__init__()
        channels, side, _ = shape
        half = -(-side // 2)
        quarter = -(-half // 2)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(4 * width * quarter * quarter, 8 * width),
            nn.ReLU(),
            nn.Linear(8 * width, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (N, K) of x (N, C, H, W) in [0, 1]."""
        logits: Tensor = self.layers(x - 0.5)
        return logits


@dataclass(frozen=True)
class SmallCnn:
    """Three convolutions and two linear layers, trained in minutes on a CPU."""

    width: Annotated[int, Field(ge=1)] = 16
    training: SupervisedRecipe = field(default_factory=SupervisedRecipe)

    revision: ClassVar[int] = 1
    kind: ClassVar[str] = "standard"
    needs_classifier: ClassVar[bool] = False

    @staticmethod
    def recipe(dataset: str) -> dict[str, Any]:
        """Return the shipped parameters for a data set."""
        return recipe("small_cnn", dataset)

    def negatives(self) -> None:
        """Ask for no adversarial images."""

    def start(self, task: Task) -> Supervised:
        """Begin training."""
        shape = tuple(task.train.x.shape[1:])
        return Supervised(
            self.training,
            task,
            lambda: SmallCnnNet(shape, classes=task.classes, width=self.width),
        )

    def load(
        self, weights: Mapping[str, Tensor], *, shape: tuple[int, ...], classes: int
    ) -> nn.Module:
        """Build the network; raises CheckpointError where the weights do not fit."""
        return read_weights(SmallCnnNet(shape, classes=classes, width=self.width), weights)

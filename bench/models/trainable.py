"""The contracts of plugins with weights: what a training may use, and what it has to offer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from bench.core.protocols import DefensePlugin, Images, Purifier
from bench.core.threat import ThreatModel


@dataclass(frozen=True)
class Negatives:
    """AutoAttack's images that a training asks for, made from the first ``images`` of its own.

    They are made on the bare classifier that is to be defended, or on another training of it,
    with all its parameters but the seed, where ``classifier_seed`` is set.
    """

    threat: ThreatModel
    images: int
    classifier_seed: int | None = None


@dataclass(frozen=True)
class Task:
    """All that a training may use: training images and held-out training images.

    ``classifier`` is the network to be defended and ``adversarial`` (M, C, H, W) the images
    that the plugin's ``negatives`` asked for, made from the first M training images.
    """

    train: Images
    validation: Images
    classes: int
    device: torch.device
    classifier: nn.Module | None = None
    adversarial: Tensor | None = None


class Training(Protocol):
    """One resumable training run: ``advance`` until ``step == total``."""

    step: int
    total: int

    def advance(self) -> None:
        """Do one iteration, which depends only on ``state`` and the step number."""
        ...

    def metrics(self) -> dict[str, float]:
        """Report the latest losses; may synchronise with the device."""
        ...

    def state(self) -> dict[str, object]:
        """Return all that ``restore`` needs: only tensors, numbers, lists and dicts."""
        ...

    def restore(self, state: dict[str, object]) -> None:
        """Continue exactly where ``state`` was taken."""
        ...

    def weights(self) -> dict[str, Tensor]:
        """Return the tensors that a checkpoint keeps."""
        ...

    def evaluate(self) -> dict[str, float]:
        """Measure the finished weights on held-out training images."""
        ...


@runtime_checkable
class Trainable(Protocol):
    """A plugin whose weights are trained: it has ``training`` parameters of its own."""

    revision: ClassVar[int]

    @property
    def needs_classifier(self) -> bool: ...

    @property
    def training(self) -> object:
        """The parameters of training, a frozen dataclass with a ``seed``."""
        ...

    def negatives(self) -> Negatives | None:
        """Ask for adversarial images of training images; None for none."""
        ...

    def start(self, task: Task) -> Training:
        """Begin a training run on a task."""
        ...


@runtime_checkable
class TrainablePurifier(Trainable, DefensePlugin, Protocol):
    """A defense plugin with weights: it becomes a purifier once they are loaded."""

    def load(self, weights: Mapping[str, Tensor], *, shape: tuple[int, ...]) -> Purifier:
        """Build the purifier for images of shape (C, H, W); raises CheckpointError."""
        ...


@runtime_checkable
class TrainableClassifier(Trainable, Protocol):
    """A classifier plugin with weights."""

    def load(
        self, weights: Mapping[str, Tensor], *, shape: tuple[int, ...], classes: int
    ) -> nn.Module:
        """Build the network for images of shape (C, H, W); raises CheckpointError."""
        ...


@runtime_checkable
class UntrainedClassifier(Protocol):
    """A classifier plugin that has its weights already, wherever they come from."""

    revision: ClassVar[int]

    def network(self, *, shape: tuple[int, ...], classes: int) -> nn.Module:
        """Make the network for images of shape (C, H, W); raises PluginError."""
        ...


@runtime_checkable
class MakesPurifier(DefensePlugin, Protocol):
    """A defense plugin that is no purifier itself: it makes one, and nothing is trained."""

    def purifier(self, *, shape: tuple[int, ...]) -> Purifier:
        """Make the purifier for images of shape (C, H, W); raises PluginError."""
        ...

"""The adversarially trained energy-based model as a purifier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor

from bench.api import Access, Norm, Task, ThreatModel, parse_eps, read_weights
from bench_defenses.contrastive import (
    ContrastiveDivergence,
    ContrastiveRecipe,
    Positive,
    Scale,
)
from bench_defenses.energy import EnergyNet
from bench_defenses.langevin import LangevinPurifier
from bench_defenses.recipe import recipe


@dataclass(frozen=True)
class AdversarialRecipe(ContrastiveRecipe):
    """Contrastive divergence with AutoAttack's images in the share p of the fake batch."""

    share: Annotated[float, Field(ge=0, lt=1)] = 0.25
    norm: Norm = Norm.LINF
    eps: str = "8/255"
    images: Positive = 5000  # training images to attack, the first ones


@dataclass(frozen=True)
class AdvEbm:
    """Langevin steps on an energy that also saw AutoAttack's images as negatives.

    Hajimohammadi Tabriz, Amini and Kazemi 2026. ``steps`` K, ``step_size`` s and ``noise`` e:
    x <- clamp(x - s grad E(x) + e normal).
    """

    steps: Positive = 30
    step_size: Scale = 5.0
    noise: Scale = 0.03
    training: AdversarialRecipe = field(default_factory=AdversarialRecipe)

    revision: ClassVar[int] = 1
    stochastic: ClassVar[bool] = True
    differentiable: ClassVar[bool] = True
    needs_classifier: ClassVar[bool] = True

    @staticmethod
    def recipe(dataset: str) -> dict[str, Any]:
        """Return the shipped parameters for a data set."""
        return recipe("adv_ebm", dataset)

    def negatives(self) -> tuple[ThreatModel, int]:
        """Ask for AutoAttack's images of the bare classifier."""
        training = self.training
        eps = parse_eps(training.eps, training.norm)
        return ThreatModel(training.norm, eps, Access.TRANSFER), training.images

    def passes(self) -> dict[str, int]:
        """Count the passes of one purification, per image."""
        return {"energy forward": self.steps, "energy backward": self.steps}

    def start(self, task: Task) -> ContrastiveDivergence:
        """Begin training on a task that carries the adversarial images."""
        return ContrastiveDivergence(
            self.training, task, negatives=task.adversarial, share=self.training.share
        )

    def load(
        self, weights: Mapping[str, Tensor], *, shape: tuple[int, ...]
    ) -> LangevinPurifier:
        """Build the purifier; raises CheckpointError where the weights do not fit."""
        energy = read_weights(EnergyNet(shape, width=self.training.width), weights)
        return LangevinPurifier(
            energy, steps=self.steps, step_size=self.step_size, noise=self.noise
        )

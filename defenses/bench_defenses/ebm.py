"""The standard energy-based model as a purifier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from bench.api import Task, ThreatModel, read_weights
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
class Ebm:
    """Langevin steps on an energy trained by contrastive divergence (Hill et al. 2021).

    ``steps`` K, ``step_size`` s and ``noise`` e: x <- clamp(x - s grad E(x) + e normal).
    """

    steps: Positive = 30
    step_size: Scale = 5.0
    noise: Scale = 0.03
    training: ContrastiveRecipe = field(default_factory=ContrastiveRecipe)

    revision: ClassVar[int] = 1
    stochastic: ClassVar[bool] = True
    differentiable: ClassVar[bool] = True
    needs_classifier: ClassVar[bool] = False

    @staticmethod
    def recipe(dataset: str) -> dict[str, Any]:
        """Return the shipped parameters for a data set."""
        return recipe("ebm", dataset)

    def negatives(self) -> tuple[ThreatModel, int] | None:
        """Ask for no adversarial images."""
        return None

    def passes(self) -> dict[str, int]:
        """Count the passes of one purification, per image."""
        return {"energy forward": self.steps, "energy backward": self.steps}

    def start(self, task: Task) -> ContrastiveDivergence:
        """Begin training."""
        return ContrastiveDivergence(self.training, task)

    def load(
        self, weights: Mapping[str, Tensor], *, shape: tuple[int, ...]
    ) -> LangevinPurifier:
        """Build the purifier; raises CheckpointError where the weights do not fit."""
        energy = read_weights(EnergyNet(shape, width=self.training.width), weights)
        return LangevinPurifier(
            energy, steps=self.steps, step_size=self.step_size, noise=self.noise
        )

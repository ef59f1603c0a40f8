"""What every defense with a trained energy has: Langevin steps, and weights to load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from bench.api import read_weights
from bench_defenses._averaged import AveragedRecipe, Positive, Scale
from bench_defenses.energies.langevin import LangevinPurifier
from bench_defenses.energies.network import EnergyNet


@dataclass(frozen=True)
class EnergyDefense:
    """K ``steps`` x <- clamp(x - s grad E(x) + e normal): s ``step_size``, e ``noise``."""

    steps: Positive = 30
    step_size: Scale = 5.0
    noise: Scale = 0.03
    training: AveragedRecipe = field(default_factory=AveragedRecipe)

    stochastic: ClassVar[bool] = True
    differentiable: ClassVar[bool] = True

    def passes(self) -> dict[str, int]:
        """Count the passes of one purification, per image."""
        return {"energy forward": self.steps, "energy backward": self.steps}

    def load(
        self, weights: Mapping[str, Tensor], *, shape: tuple[int, ...]
    ) -> LangevinPurifier:
        """Build the purifier; raises CheckpointError where the weights do not fit."""
        energy = read_weights(EnergyNet(shape, width=self.training.width), weights)
        return LangevinPurifier(
            energy, steps=self.steps, step_size=self.step_size, noise=self.noise
        )

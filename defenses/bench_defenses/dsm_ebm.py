"""The standard energy-based model, trained by denoising score matching, as a purifier.

Multi-noise denoising score matching (Li, Chen and Sommer 2019, arXiv 1910.07762) needs no
chains: it is what ``ebm`` can have where chains are too long for the machine at hand.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from bench.api import Task
from bench_defenses._averaged import Positive, Scale
from bench_defenses._recipe import recipe
from bench_defenses.energies.denoising import DenoisingRecipe, DenoisingScoreMatching
from bench_defenses.energies.purifier import EnergyDefense


@dataclass(frozen=True)
class DsmEbm(EnergyDefense):
    """Langevin steps on an energy trained by score matching (Li, Chen and Sommer 2019).

    It purifies as ``ebm`` does: ``steps`` K, ``step_size`` s and ``noise`` e.
    """

    steps: Positive = 10
    step_size: Scale = 10.0
    noise: Scale = 0.01
    training: DenoisingRecipe = field(default_factory=DenoisingRecipe)

    revision: ClassVar[int] = 1
    kind: ClassVar[str] = "energies"
    source: ClassVar[str] = "Li, Chen and Sommer 2019, arXiv 1910.07762"
    needs_classifier: ClassVar[bool] = False

    @staticmethod
    def recipe(dataset: str) -> dict[str, Any]:
        """Return the shipped parameters for a data set."""
        return recipe("dsm_ebm", dataset)

    def negatives(self) -> None:
        """Ask for no adversarial images."""

    def start(self, task: Task) -> DenoisingScoreMatching:
        """Begin training."""
        return DenoisingScoreMatching(self.training, task)

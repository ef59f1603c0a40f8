"""The standard energy-based model as a purifier."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from bench.api import Negatives, Task
from bench_defenses._recipe import recipe
from bench_defenses.energies.contrastive import ContrastiveDivergence, ContrastiveRecipe
from bench_defenses.energies.purifier import EnergyDefense


@dataclass(frozen=True)
class Ebm(EnergyDefense):
    """Langevin steps on an energy trained by contrastive divergence (Hill et al. 2021).

    ``steps`` K, ``step_size`` s and ``noise`` e: x <- clamp(x - s grad E(x) + e normal).
    """

    training: ContrastiveRecipe = field(default_factory=ContrastiveRecipe)

    revision: ClassVar[int] = 1
    kind: ClassVar[str] = "energies"
    source: ClassVar[str] = "Hill, Mitchell and Zhu 2021, arXiv 2005.13525"
    needs_classifier: ClassVar[bool] = False

    @staticmethod
    def recipe(dataset: str) -> dict[str, Any]:
        """Return the shipped parameters for a data set."""
        return recipe("ebm", dataset)

    def negatives(self) -> Negatives | None:
        """Ask for no adversarial images."""
        return None

    def start(self, task: Task) -> ContrastiveDivergence:
        """Begin training."""
        return ContrastiveDivergence(self.training, task)

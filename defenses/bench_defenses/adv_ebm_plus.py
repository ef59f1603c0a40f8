"""An energy-based model that is trained to point back to the clean image, as a purifier."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from bench.api import Access, Negatives, Task, ThreatModel, parse_eps
from bench_defenses._recipe import recipe
from bench_defenses.energies.purifier import EnergyDefense
from bench_defenses.energies.score_matching import ScoreMatching, ScoreRecipe


@dataclass(frozen=True)
class AdvEbmPlus(EnergyDefense):
    """Langevin steps on an energy whose gradient is fitted to point from attacks back.

    It purifies as ``ebm`` does: ``steps`` K, ``step_size`` s and ``noise`` e. It is trained
    without chains, on AutoAttack's images and, with ``training.online_steps``, on attacks
    against itself.
    """

    training: ScoreRecipe = field(default_factory=ScoreRecipe)

    revision: ClassVar[int] = 1
    kind: ClassVar[str] = "energies"
    source: ClassVar[str] = "ours"
    needs_classifier: ClassVar[bool] = True

    @staticmethod
    def recipe(dataset: str) -> dict[str, Any]:
        """Return the shipped parameters for a data set."""
        return recipe("adv_ebm_plus", dataset)

    def negatives(self) -> Negatives | None:
        """Ask for AutoAttack's images of the bare classifier."""
        training = self.training
        eps = parse_eps(training.eps, training.norm)
        return Negatives(ThreatModel(training.norm, eps, Access.TRANSFER), training.images)

    def start(self, task: Task) -> ScoreMatching:
        """Begin training; raises PluginError where the task has no adversarial images."""
        return ScoreMatching(self.training, task)

"""The adversarially trained energy-based model as a purifier."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from pydantic import Field

from bench.api import Access, Negatives, Norm, Task, ThreatModel, parse_eps
from bench_defenses._averaged import Positive
from bench_defenses._recipe import recipe
from bench_defenses.ebm import Ebm
from bench_defenses.energies.contrastive import ContrastiveDivergence, ContrastiveRecipe


@dataclass(frozen=True)
class AdversarialRecipe(ContrastiveRecipe):
    """Contrastive divergence with AutoAttack's images in the share p of the fake batch."""

    share: Annotated[float, Field(ge=0, lt=1)] = 0.25
    norm: Norm = Norm.LINF
    eps: str = "8/255"
    images: Positive = 5000  # training images to attack, the first ones


@dataclass(frozen=True)
class AdvEbm(Ebm):
    """Langevin steps on an energy that also saw AutoAttack's images as negatives.

    Hajimohammadi Tabriz, Amini and Kazemi 2026. It purifies as ``ebm`` does, with ``steps`` K,
    ``step_size`` s and ``noise`` e, and differs only in its training.
    """

    training: AdversarialRecipe = field(default_factory=AdversarialRecipe)

    revision: ClassVar[int] = 1
    kind: ClassVar[str] = "energies"
    source: ClassVar[str] = "Hajimohammadi Tabriz, Amini and Kazemi 2026, Monadi 14(2)"
    needs_classifier: ClassVar[bool] = True

    @staticmethod
    def recipe(dataset: str) -> dict[str, Any]:
        """Return the shipped parameters for a data set."""
        return recipe("adv_ebm", dataset)

    def negatives(self) -> Negatives | None:
        """Ask for AutoAttack's images of the bare classifier."""
        training = self.training
        eps = parse_eps(training.eps, training.norm)
        return Negatives(ThreatModel(training.norm, eps, Access.TRANSFER), training.images)

    def start(self, task: Task) -> ContrastiveDivergence:
        """Begin training on a task that carries the adversarial images."""
        return ContrastiveDivergence(
            self.training, task, negatives=task.adversarial, share=self.training.share
        )

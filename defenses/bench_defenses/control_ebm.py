"""Controls of the adversarial training: the same energy with other negatives."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from bench.api import Negatives, Task, parse_eps
from bench_defenses._recipe import recipe
from bench_defenses._seeding import generator
from bench_defenses.adv_ebm import AdvEbm, AdversarialRecipe
from bench_defenses.energies.contrastive import ContrastiveDivergence
from bench_defenses.energies.random_signs import random_signs


@dataclass(frozen=True)
class ControlRecipe(AdversarialRecipe):
    """The adversarial recipe with negatives that are not attacks on the defended classifier."""

    negatives: Literal["random_sign", "other_classifier"] = "random_sign"
    classifier_seed: Annotated[int, Field(ge=0, lt=2**31)] = 1  # of the other classifier


@dataclass(frozen=True)
class ControlEbm(AdvEbm):
    """Langevin steps on an energy trained as ``adv_ebm`` is, with control negatives.

    Random signs of the same size, or AutoAttack's images of another training of the classifier
    (``classifier_seed``): a gain that they have too is not due to attacks on the defended one.
    """

    training: ControlRecipe = field(default_factory=ControlRecipe)

    revision: ClassVar[int] = 1
    kind: ClassVar[str] = "energies"
    source: ClassVar[str] = "ours, a control of adv_ebm"

    @staticmethod
    def recipe(dataset: str) -> dict[str, Any]:
        """Return the shipped parameters for a data set."""
        return recipe("control_ebm", dataset)

    def negatives(self) -> Negatives | None:
        """Ask for AutoAttack's images of the other classifier, where they are the negatives."""
        asked = super().negatives()
        if asked is None or self.training.negatives == "random_sign":
            return None
        return dataclasses.replace(asked, classifier_seed=self.training.classifier_seed)

    def start(self, task: Task) -> ContrastiveDivergence:
        """Begin training; random signs are drawn once, as attacks are made once."""
        training = self.training
        if training.negatives == "random_sign":
            eps = parse_eps(training.eps, training.norm)
            signs = random_signs(
                task.train.x[: training.images],
                norm=training.norm,
                radius=float("inf") if eps is None else float(eps),
                generator=generator(training.seed, "random signs"),
            )
            task = dataclasses.replace(task, adversarial=signs)
        return super().start(task)

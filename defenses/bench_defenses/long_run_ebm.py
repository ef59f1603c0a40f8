"""The long-run energy-based model as a purifier: ``ebm`` with long chains.

Hill, Mitchell and Zhu 2021, arXiv 2005.13525: chains of 100 steps in training and of up
to 1,500 in purification. Checkpoints are those of ``ebm``, so that a training is done once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from bench_defenses._averaged import Positive
from bench_defenses._recipe import recipe
from bench_defenses.ebm import Ebm
from bench_defenses.energies.contrastive import ContrastiveRecipe


@dataclass(frozen=True)
class LongRunRecipe(ContrastiveRecipe):
    """Contrastive divergence with chains of 100 steps."""

    chain_steps: Positive = 100


@dataclass(frozen=True)
class LongRunEbm(Ebm):
    """Long Langevin chains on an energy that long chains trained (Hill, Mitchell and Zhu 2021).

    It purifies as ``ebm`` does: ``steps`` K, ``step_size`` s and ``noise`` e.
    """

    steps: Positive = 1500
    training: LongRunRecipe = field(default_factory=LongRunRecipe)

    revision: ClassVar[int] = 1
    kind: ClassVar[str] = "energies"
    source: ClassVar[str] = "Hill, Mitchell and Zhu 2021, arXiv 2005.13525"
    trained_as: ClassVar[str] = "ebm"

    @staticmethod
    def recipe(dataset: str) -> dict[str, Any]:
        """Return the shipped parameters for a data set."""
        return recipe("long_run_ebm", dataset)

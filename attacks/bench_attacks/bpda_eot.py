"""BPDA with EOT in the budget of the literature on energy-based purification.

BPDA: Athalye, Carlini and Wagner 2018, "Obfuscated Gradients Give a False Sense of Security",
arXiv 1802.00420, section 4.1. EOT: Athalye et al. 2018, "Synthesizing Robust Adversarial
Examples", arXiv 1707.07397. The identity in place of the purifier's gradient is not in this
file: it is the view of BPDA access (``BpdaView`` and ``_StraightThrough`` in
bench/core/access.py), the only access that this attack takes. The steps are those of pgd.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from bench.api import LOSSES, Access, Calls, LossName, Norm, Rng, ThreatModel, View
from bench_attacks._best import Best
from bench_attacks.pgd import ascend, default_step, random_point, votes


@dataclass(frozen=True)
class BpdaEot:
    """PGD through the purifier forwards and the identity backwards (BPDA, arXiv 1802.00420).

    ``steps`` and ``eot`` as in Hill, Mitchell and Zhu 2021, "Stochastic Security", arXiv
    2005.13525: 50 steps of 15 draws, from a random start. ``step_size`` in pixels of [0, 1],
    None for 2.5 eps / steps (Linf) or 5 eps / steps (L2).
    """

    revision: ClassVar[int] = 2
    norms: ClassVar[tuple[Norm, ...]] = (Norm.LINF, Norm.L2)
    accesses: ClassVar[tuple[Access, ...]] = (Access.BPDA,)
    unbounded: ClassVar[bool] = True

    steps: Annotated[int, Field(ge=1)] = 50
    eot: Annotated[int, Field(ge=1)] = 15
    step_size: Annotated[float, Field(gt=0)] | None = None
    loss: LossName = "ce"

    def __call__(
        self, view: View, x: Tensor, y: Tensor, *, threat: ThreatModel, rng: Rng
    ) -> Tensor:
        """Return the iterate (N, C, H, W) that most draws mistake for another class than y."""
        streams = rng.fork("bpda_eot")
        best = Best.nothing(x)
        ascend(
            view,
            x,
            y,
            random_point(x, threat, streams.fork("start")),
            best,
            threat=threat,
            rng=streams,
            loss=LOSSES[self.loss],
            steps=self.steps,
            draws=self.eot if view.stochastic else 1,
            step_size=self.step_size or default_step(x, threat, self.steps),
        )
        return best.x

    def calls(self, *, stochastic: bool, classes: int) -> Calls:
        """Bound the cost of one image that never leaves the batch."""
        draws = self.eot if stochastic else 1
        return Calls(forward=votes(stochastic) * draws, backward=self.steps * draws)

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

from bench.api import LOSSES, Access, Calls, LossName, Norm, Rng, ThreatModel, View, added
from bench_attacks._best import Best
from bench_attacks._targets import losses_of_runs
from bench_attacks.pgd import ascend, cost_of_runs, default_step, random_point


@dataclass(frozen=True)
class BpdaEot:
    """PGD through the purifier forwards and the identity backwards (BPDA, arXiv 1802.00420).

    ``steps`` and ``eot`` as in Hill, Mitchell and Zhu 2021, "Stochastic Security", arXiv
    2005.13525: 50 steps of 15 draws, from a random start. ``step_size`` in pixels of [0, 1],
    None for 2.5 eps / steps (Linf) or 5 eps / steps (L2). ``targets`` more runs as in pgd.
    """

    revision: ClassVar[int] = 2
    independent: ClassVar[bool] = True
    norms: ClassVar[tuple[Norm, ...]] = (Norm.LINF, Norm.L2)
    accesses: ClassVar[tuple[Access, ...]] = (Access.BPDA,)
    unbounded: ClassVar[bool] = True

    steps: Annotated[int, Field(ge=1)] = 50
    eot: Annotated[int, Field(ge=1)] = 15
    step_size: Annotated[float, Field(gt=0)] | None = None
    loss: LossName = "ce"
    targets: Annotated[int, Field(ge=0)] = added(0)

    def __call__(
        self, view: View, x: Tensor, y: Tensor, *, threat: ThreatModel, rng: Rng
    ) -> Tensor:
        """Return the iterate (N, C, H, W) that most draws mistake for another class than y."""
        rng = rng.fork("bpda_eot")
        best, draws = Best.nothing(x), self.eot if view.stochastic else 1
        losses = losses_of_runs(
            view,
            x,
            y,
            best,
            loss=LOSSES[self.loss],
            restarts=1,
            targets=self.targets,
            draws=draws,
            rng=rng.fork("targets"),
        )
        for run, loss in enumerate(losses):
            streams = rng.fork(run) if run else rng
            ascend(
                view,
                x,
                y,
                random_point(x, threat, streams.fork("start")),
                best,
                threat=threat,
                rng=streams,
                loss=loss,
                steps=self.steps,
                draws=draws,
                step_size=self.step_size or default_step(x, threat, self.steps),
            )
        return best.x

    def calls(self, *, stochastic: bool, classes: int) -> Calls:
        """Bound the cost of one image that never leaves the batch."""
        draws = self.eot if stochastic else 1
        return cost_of_runs(
            draws, steps=self.steps, restarts=1, targets=self.targets,
            stochastic=stochastic, classes=classes,
        )  # fmt: skip

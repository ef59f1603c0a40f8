"""PluginName, an attack. Replace its loop by your own."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from bench.api import (
    LOSSES,
    Access,
    Calls,
    Norm,
    Rng,
    ThreatModel,
    View,
    averaged_gradient,
    project,
    steepest,
)
from pydantic import Field
from torch import Tensor


@dataclass(frozen=True)
class PluginName:
    """Go up the cross-entropy in ``steps`` steps, on the mean gradient of ``eot`` draws."""

    steps: Annotated[int, Field(ge=1)] = 10
    eot: Annotated[int, Field(ge=1)] = 5

    revision: ClassVar[int] = 1  # raise it when results change
    norms: ClassVar[tuple[Norm, ...]] = (Norm.LINF, Norm.L2)
    accesses: ClassVar[tuple[Access, ...]] = (Access.FULL, Access.BPDA, Access.TRANSFER)
    unbounded: ClassVar[bool] = False  # whether --eps inf makes sense

    def __call__(
        self, view: View, x: Tensor, y: Tensor, *, threat: ThreatModel, rng: Rng
    ) -> Tensor:
        """Propose images near x (N, C, H, W) that are not classified as y (N,)."""
        draws = self.eot if view.stochastic else 1
        size = 2 * threat.radius / self.steps
        x_adv = x.clone()
        for step in range(self.steps):
            seen = averaged_gradient(
                view, x_adv, y, loss=LOSSES["ce"], draws=draws, rng=rng.fork("step", step)
            )
            moved = x_adv + size * steepest(seen.gradient, threat.norm)
            x_adv = project(moved, x, threat.norm, threat.radius)
        return x_adv

    def calls(self, *, stochastic: bool, classes: int) -> Calls:
        """Bound the cost of one image, for --dry-run and the order of attacks."""
        return Calls(backward=self.steps * (self.eot if stochastic else 1))

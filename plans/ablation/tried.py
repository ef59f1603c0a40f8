"""Ways to a gradient that were tried in the place of the exact one, each under Auto-PGD.

A plan of this folder names them. What they brought is in docs/attacks.md.
"""

# ruff: noqa: ARG002, D101, D102
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from bench.api import (
    Access,
    Calls,
    Norm,
    PluginError,
    Rng,
    SteppedPurifier,
    ThreatModel,
    View,
    margin,
)
from bench_attacks.apgd import Apgd

Way = Literal["between", "known", "graft", "chosen"]


@dataclass(frozen=True)
class Tried:
    """Auto-PGD on the margin, ``steps`` of ``eot`` draws, with another way to its gradient.

    - ``between`` (DiffAttack, Kang et al. 2023, arXiv 2311.16124): the margin at the state
      after every purification step is added, of the classes that the last state has;
    - ``known``: the same noise in every step;
    - ``graft``: the forward pass of the defense, the backward pass of a purifier of five times
      fewer steps;
    - ``chosen`` (DiffHammer, Wang et al. 2024, arXiv 2410.16910): of four draws without a
      gradient, the one that is least wrong is differentiated.
    """

    way: Way = "between"
    steps: int = 20
    eot: int = 1

    revision: ClassVar[int] = 1
    norms: ClassVar[tuple[Norm, ...]] = (Norm.LINF, Norm.L2)
    accesses: ClassVar[tuple[Access, ...]] = (Access.FULL,)
    unbounded: ClassVar[bool] = False

    def __call__(
        self, view: View, x: Tensor, y: Tensor, *, threat: ThreatModel, rng: Rng
    ) -> Tensor:
        """Return Auto-PGD's image (N, C, H, W) against the labels y (N,)."""
        kinds = {"between": Between, "known": Known, "graft": Graft, "chosen": Chosen}
        attack = Apgd(steps=self.steps, eot=self.eot, loss="margin")
        return attack(kinds[self.way](view), x, y, threat=threat, rng=rng)

    def calls(self, *, stochastic: bool, classes: int) -> Calls:
        """Bound the cost of one image."""
        seen = 1 if self.way == "graft" else 4 if self.way == "chosen" else 0
        return Calls(forward=1 + seen * self.steps * self.eot, backward=self.steps * self.eot)


@dataclass(frozen=True)
class Through:
    """A view that is the one within but for its calls."""

    inner: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class Between(Through):
    def __call__(self, x: Tensor, *, rng: Rng) -> Tensor:
        purifier = self.inner.defense.purifier
        if not isinstance(purifier, SteppedPurifier):
            raise PluginError(
                f"{type(purifier).__name__} has no states in between: it has no 'step'. Attack "
                "it without a loss on them."
            )
        if not (x.requires_grad and torch.is_grad_enabled()):
            return self.inner(x, rng=rng)
        states = []
        for k in range(purifier.steps):
            x = purifier.step(x, rng=rng.fork("langevin", k))
            states.append(self.inner.defense.classify(x))
        last = states[-1]
        for logits in states[:-1]:
            last = last + (logits - logits.detach()) / len(states)
        return last


class Known(Through):
    def __call__(self, x: Tensor, *, rng: Rng) -> Tensor:
        return self.inner(x, rng=Rng(7, rng._images, rng._draws))


class Graft(Through):
    def __call__(self, x: Tensor, *, rng: Rng) -> Tensor:
        with torch.no_grad():
            exact = self.inner(x, rng=rng)
        if not (x.requires_grad and torch.is_grad_enabled()):
            return exact
        coarse = self.inner.surrogate(5)(x, rng=rng)
        return coarse + (exact - coarse).detach()


class Chosen(Through):
    def __call__(self, x: Tensor, *, rng: Rng) -> Tensor:
        if not (x.requires_grad and torch.is_grad_enabled()) or len(rng) > len(x):
            return self.inner(x, rng=rng)
        streams = rng.repeat(4)
        with torch.no_grad():
            logits = self.inner(x, rng=streams)
            top = logits.reshape(len(x), 4, -1).mean(1).argmax(1).repeat_interleave(4)
            least = margin(logits, top).reshape(len(x), 4).argmin(1)
        return self.inner(x, rng=streams[torch.arange(len(x)) * 4 + least])

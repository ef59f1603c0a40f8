"""A purifier as a stranger writes it: it counts its calls and draws from torch's generator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bench.api import Rng


@dataclass
class Counter:
    calls: int = 0


_COUNTER = Counter()


@dataclass(frozen=True)
class Stateful:
    """Adds noise of torch's global generator, and keeps a counter."""

    revision: ClassVar[int] = 1
    stochastic: ClassVar[bool] = True
    differentiable: ClassVar[bool] = True

    noise: float = 0.2

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        _COUNTER.calls += 1
        return x + self.noise * torch.randn_like(x)

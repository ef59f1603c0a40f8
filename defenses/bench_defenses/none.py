"""No purifier at all: the bare classifier, the first row of every table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from bench.api import Rng


@dataclass(frozen=True)
class Identity:
    """Return every image unchanged."""

    revision: ClassVar[int] = 1
    kind: ClassVar[str] = "references"
    stochastic: ClassVar[bool] = False
    differentiable: ClassVar[bool] = True

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Return the images (N, C, H, W) themselves."""
        return x

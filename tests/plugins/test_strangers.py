"""Networks that a defense calls: whose weights are its own, and whose are not."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.plugins.strangers import SAID, strangers


class Around(nn.Module):
    """A network around another one, made at each call."""

    def __init__(self, inner: nn.Module, *, own: bool) -> None:
        super().__init__()
        self.inner = inner
        self.own = nn.Linear(2, 2) if own else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.own(self.inner(x))
        return found


def flags(defense: nn.Module, called: nn.Module) -> list[str]:
    with strangers(defense) as found:
        called(torch.zeros(1, 2))
    return found


def test_a_network_around_a_held_one_without_weights_of_its_own_is_no_stranger() -> None:
    held = nn.Linear(2, 2)
    assert flags(held, Around(held, own=False)) == []


def test_one_with_weights_of_its_own_is_a_stranger_and_so_is_a_copy() -> None:
    held = nn.Linear(2, 2)
    (said,) = flags(held, Around(held, own=True))
    assert SAID in said
    assert "(Around)" in said
    assert len(flags(held, nn.Linear(2, 2))) == 1

"""What a row says of its purifier beside the number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.core.defense import Defense
from bench.core.rng import Rng
from bench.plugins.remarks import remarks

from ..cells import about, classifier, prepared, rows

SAID = "the purifier returned values outside [0, 1], where i"


class Purifier(nn.Module):
    differentiable = True

    def __init__(self, function: Callable[..., Tensor], *, stochastic: bool) -> None:
        super().__init__()
        self.function, self.stochastic = function, stochastic

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        return self.function(x, rng)


@pytest.mark.parametrize(
    ("function", "stochastic", "leaves"),
    [
        (lambda x, rng: 2 * x - 1, False, True),
        (lambda x, rng: x + 0.2, False, True),
        (lambda x, rng: (x - 0.5) / 0.2, False, True),
        (lambda x, rng: 2 * x - 1 + 0.1 * rng.normal_like(x), True, True),
        (lambda x, rng: x + 0.1 * rng.normal_like(x), True, False),
        (lambda x, rng: x + 1e-3, False, False),
        (lambda x, rng: x, False, False),
    ],
    ids=["[-1, 1]", "brighter", "normalized", "[-1, 1] and noise", "noise", "rounding", "none"],
)
def test_a_purifier_that_leaves_the_box_is_named(
    function: Any, stochastic: bool, leaves: bool
) -> None:
    defense = Defense(Purifier(function, stochastic=stochastic), classifier())
    x = torch.linspace(0, 1, 4 * 64).reshape(4, 1, 8, 8)
    with remarks(defense) as found, torch.no_grad():
        defense.classify(defense.purify(x, rng=Rng.seeded(0, range(4))))
    assert [flag[:52] for flag in found] == [SAID] * leaves
    with remarks(defense) as again:
        pass
    assert again == []


def test_the_row_has_it(workspace: Any) -> None:
    made = prepared(Purifier(lambda x, rng: 2 * x - 1, stochastic=False), n=2, shard=2, draws=2)
    rows(made, workspace)
    (flag,) = about(made, workspace)["flags"]
    assert flag.startswith(SAID)

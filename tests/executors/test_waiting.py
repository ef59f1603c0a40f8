"""On a GPU the host runs ahead of the device unless it has to wait: it does not in loops."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from bench.core.access import view_of
from bench.core.defense import Defense
from bench.core.protocols import Attack
from bench.core.rng import Rng
from bench.core.threat import Access, Norm, ThreatModel
from bench_attacks.adaptive import Adaptive
from bench_attacks.apgd import Apgd
from bench_attacks.bpda_eot import BpdaEot
from bench_attacks.noise import Noise
from bench_attacks.pgd import Pgd
from bench_attacks.square import Square
from bench_defenses.energies.langevin import LangevinPurifier
from bench_defenses.energies.network import EnergyNet

WAITING = {
    torch.ops.aten._local_scalar_dense.default,  # item, bool, float, int, if
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten.equal.default,
}


class Waits(TorchDispatchMode):
    """Counts the operations whose result, or its size, the host has to know."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        by_mask = func is torch.ops.aten.index.Tensor and any(
            index is not None and index.dtype is torch.bool for index in args[1]
        )
        self.count += func in WAITING or by_mask
        return func(*args, **(kwargs or {}))


class Stubborn(nn.Module):
    """A classifier that is right whatever the attack does, so that no image leaves."""

    def forward(self, x: Tensor) -> Tensor:
        total = 0.01 * x.flatten(1).sum(1)
        return torch.stack((100 + total, -total), dim=1)


def waits(attack: Attack, access: Access, *, images: int = 3) -> int:
    energy = EnergyNet((1, 8, 8), width=4)
    defense = Defense(LangevinPurifier(energy, steps=2, step_size=0.1, noise=0.1), Stubborn())
    x, y = torch.full((images, 1, 8, 8), 0.5), torch.zeros(images, dtype=torch.long)
    threat = ThreatModel(Norm.LINF, Fraction(1, 10), access)
    rng = Rng.seeded(0, range(images))
    with Waits() as seen:
        attack(view_of(defense, access), x, y, threat=threat, rng=rng)
    return seen.count


LONGER = [
    (lambda steps: Pgd(steps=steps, eot=2), Access.FULL),
    (lambda steps: Pgd(steps=steps, eot=2), Access.TRANSFER),
    (lambda steps: BpdaEot(steps=steps, eot=2), Access.BPDA),
    (lambda steps: Apgd(steps=steps, eot=2), Access.FULL),
    (lambda steps: Apgd(steps=steps, eot=2, surrogate=2), Access.BPDA),
    (lambda steps: Adaptive(steps=steps, eot=2), Access.BPDA),
    (lambda steps: Noise(tries=steps, eot=2), Access.QUERY),
    (lambda steps: Square(queries=steps, eot=2), Access.QUERY),
]


@pytest.mark.parametrize(("make", "access"), LONGER)
def test_no_step_waits_for_the_device(make: Any, access: Access) -> None:
    assert waits(make(4), access) == waits(make(9), access)


@pytest.mark.parametrize(("make", "access"), LONGER)
def test_the_host_looks_at_who_is_done_every_ten_steps(make: Any, access: Access) -> None:
    assert waits(make(39), access) - waits(make(9), access) <= 3


def test_what_waits_is_counted() -> None:
    x = torch.arange(3.0)
    with Waits() as seen:
        x[x > 1]
        float(x[0])
        (x > 1).nonzero()
    assert seen.count == 3

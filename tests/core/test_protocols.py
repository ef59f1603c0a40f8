"""Whether a plugin fits a contract, on every Python."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import nn

from bench.core.defense import Defense
from bench.core.protocols import (
    CoarsePurifier,
    EnergyPurifier,
    NoisyPurifier,
    Purifier,
    SharingPurifier,
    SteppedPurifier,
    fits,
)
from bench_defenses.gaussian import Gaussian
from bench_defenses.none import Identity

from ..cells import langevin

CONTRACTS = (
    Purifier, SharingPurifier, SteppedPurifier, EnergyPurifier, CoarsePurifier, NoisyPurifier,
)  # fmt: skip


class Handing:
    """A purifier that hands on what another one has."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "inner":  # a copy asks before it has an inner one
            raise AttributeError(name)
        return getattr(self.inner, name)


def test_a_submodule_and_what_is_handed_on_count() -> None:
    """Python 3.12 asks by inspect.getattr_static, which sees neither."""
    purifier = langevin()
    for thing in (purifier, Handing(purifier)):
        with pytest.raises(AttributeError):
            inspect.getattr_static(thing, "energy")
        assert [fits(thing, contract) for contract in CONTRACTS] == [True] * len(CONTRACTS)


def test_what_is_missing_or_none_does_not_fit() -> None:
    assert [fits(Identity(), contract) for contract in CONTRACTS] == [True, *[False] * 5]
    assert not fits(nn.Identity(), Purifier)
    blur = Handing(Gaussian(0.1))
    blur.energy = None
    blur.step = None
    assert fits(blur, Purifier)
    assert not fits(blur, EnergyPurifier)
    assert not fits(blur, SteppedPurifier)


def test_a_defense_uses_what_a_wrapped_purifier_has() -> None:
    steps: list[int] = []

    class Counting(Handing):
        def __getattr__(self, name: str) -> Any:
            steps.extend([1] * (name == "step"))
            return super().__getattr__(name)

    from bench.core.rng import Rng

    x = torch.rand(2, 1, 8, 8)
    defense = Defense(Counting(langevin()), nn.Flatten())
    defense.purification_step(x, rng=Rng.seeded(0, [0, 1]))
    assert steps

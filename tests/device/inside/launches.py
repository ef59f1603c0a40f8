"""How many kernels and waits one step takes on the simulated device: limits, not records."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bench.core.protocols import Images
from bench.core.rng import Rng
from bench.models.trainable import Task
from bench_defenses.energies.contrastive import ContrastiveDivergence, ContrastiveRecipe
from bench_defenses.energies.graphs import RECORDERS, Work
from bench_defenses.energies.langevin import LangevinPurifier
from bench_defenses.energies.network import EnergyNet
from tests.device.ledger import LEDGER
from tests.device.simulated import DEVICE
from tests.device.subjects import held, images, seeded

SIDE = 8


def streams(device: torch.device | None = None) -> Rng:
    return (
        Rng.seeded(7, [0, -1, 2**40 + 7, 2**63 - 1], device=device).fork("launches").repeat(2)
    )


@pytest.mark.parametrize("kind", ["bits", "uniform", "normal"])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 5), ()])
def test_numbers_are_the_cpus(kind: str, shape: tuple[int, ...]) -> None:
    found, expected = (getattr(rng, kind)(shape) for rng in (streams(DEVICE), streams()))
    assert torch.equal(held(found), expected)


def test_noise_takes_75_kernels_and_no_wait() -> None:
    rng = streams(DEVICE)
    rng.normal((1,))  # makes the tables
    LEDGER.reset()
    rng.normal((1, 28, 28))
    assert LEDGER.kernels.total() <= 75, LEDGER.kernels
    assert not LEDGER.waits


def test_a_langevin_step_takes_110_kernels_and_no_wait() -> None:
    energy = seeded(lambda: EnergyNet((1, SIDE, SIDE), width=2)).requires_grad_(False)
    purifier = LangevinPurifier(energy, steps=1, step_size=5.0, noise=0.03).to(DEVICE)
    x, rng = images(4, SIDE).x.repeat(2, 1, 1, 1).to(DEVICE), streams(DEVICE)
    purifier.purify(x, rng=rng)
    LEDGER.reset()
    purifier.purify(x, rng=rng)
    assert LEDGER.kernels.total() <= 110, LEDGER.kernels
    assert not LEDGER.waits


def replayed_in_one(work: Work, given: tuple[Tensor, ...]) -> Work:
    """Stand for a graph: the work is one launch, and copies in and out are others."""

    def replay(*given: Tensor) -> Tensor:
        before = LEDGER.kernels.copy()
        found = work(*given)
        LEDGER.kernels.clear()
        LEDGER.kernels.update(before)
        LEDGER.launch("graph", 2 + len(given))
        return found

    return replay


def test_a_replayed_step_takes_85_kernels_and_its_gradient_few(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(RECORDERS, DEVICE.type, replayed_in_one)
    energy = seeded(lambda: EnergyNet((1, SIDE, SIDE), width=2)).requires_grad_(False)
    purifier = LangevinPurifier(energy, steps=1, step_size=5.0, noise=0.03).to(DEVICE)
    x, rng = images(4, SIDE).x.repeat(2, 1, 1, 1).to(DEVICE), streams(DEVICE)
    x.requires_grad_()
    for _ in range(20):  # a number of rows is recorded once it came often
        purifier.purify(x, rng=rng).sum().backward()
    LEDGER.reset()
    found = purifier.purify(x, rng=rng)
    assert LEDGER.kernels.total() <= 85, LEDGER.kernels
    LEDGER.reset()
    found.sum().backward()
    assert LEDGER.kernels.total() <= 25, LEDGER.kernels
    assert LEDGER.kernels["graph"]
    assert not LEDGER.waits


@pytest.mark.parametrize(("graph", "most"), [(True, 600), (False, 900)])
def test_a_contrastive_iteration_takes_few_kernels_and_one_wait(
    graph: bool, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if graph:
        monkeypatch.setitem(RECORDERS, DEVICE.type, replayed_in_one)
    shown: Images = images(24, SIDE).to(DEVICE)
    recipe = ContrastiveRecipe(width=2, batch=8, bank=16)
    run = ContrastiveDivergence(recipe, Task(shown, shown, 5, DEVICE))
    run.advance()
    LEDGER.reset()
    run.advance()
    assert LEDGER.kernels["graph"] == (4 * recipe.chain_steps if graph else 0)
    assert LEDGER.kernels.total() <= most, LEDGER.kernels
    assert sum(LEDGER.waits.values()) <= 1, LEDGER.waits

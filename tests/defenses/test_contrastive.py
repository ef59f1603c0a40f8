"""Contrastive divergence: repeatable, resumable, and true to what it says of its negatives."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import bench_defenses.energies.contrastive
from bench.api import Images, PluginError, Task
from bench_defenses.energies.contrastive import ContrastiveDivergence, ContrastiveRecipe
from bench_defenses.energies.network import EnergyNet

TINY = ContrastiveRecipe(iterations=8, batch=8, bank=32, chain_steps=2, width=4, ema=0.5)


def ramps(n: int) -> Tensor:
    """Images of one sort, far from noise: a smooth ramp of random height."""
    height = torch.rand(n, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    return (0.5 + 0.5 * height) * torch.linspace(0, 1, 8).expand(n, 1, 8, 8)


def task() -> Task:
    x = ramps(64)
    images = Images(torch.arange(64), x, torch.zeros(64, dtype=torch.int64))
    return Task(
        train=images[:48], validation=images[48:], classes=2, device=torch.device("cpu")
    )


def negatives(n: int = 16) -> Tensor:
    """Recognisable by their checks of exactly 0 and 1."""
    board = (torch.arange(8)[:, None] + torch.arange(8)) % 2
    return board.float().expand(n, 1, 8, 8).clone()


def ended(run: ContrastiveDivergence) -> ContrastiveDivergence:
    while run.step < run.total:
        run.advance()
    return run


def flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {k: v for name in value for k, v in flat(value[name], f"{path}/{name}").items()}
    if isinstance(value, list):
        return flat(dict(enumerate(value)), path)
    return {path: value}


def assert_same(one: ContrastiveDivergence, other: ContrastiveDivergence) -> None:
    """Equal to the bit in all that a state has, weights and bank included."""
    ours, theirs = flat(one.state()), flat(other.state())
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        if isinstance(value, Tensor):
            assert torch.equal(value, theirs[name]), name
        else:
            assert value == theirs[name], name


def test_training_is_repeatable_and_untouched_by_the_global_generator() -> None:
    first = ended(ContrastiveDivergence(TINY, task()))
    torch.manual_seed(12345)
    before = torch.get_rng_state()
    second = ended(ContrastiveDivergence(TINY, task()))
    assert torch.equal(torch.get_rng_state(), before)
    assert_same(first, second)
    other = ended(ContrastiveDivergence(dataclasses.replace(TINY, seed=1), task()))
    assert not torch.equal(first.bank, other.bank)


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_a_run_that_is_stored_and_restored_goes_on_exactly(
    share: float, tmp_path: Path
) -> None:
    def fresh() -> ContrastiveDivergence:
        return ContrastiveDivergence(TINY, task(), negatives=negatives(), share=share)

    whole = ended(fresh())
    run = fresh()
    for _ in range(TINY.iterations):
        run.advance()
        torch.save(run.state(), tmp_path / "state.pt")
        run = fresh()
        run.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    assert run.step == run.total
    assert_same(run, whole)
    for name, value in run.weights().items():
        assert torch.equal(value, whole.weights()[name])
    assert run.evaluate() == whole.evaluate()


def fakes(run: ContrastiveDivergence, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Collect what each iteration presents as fake."""
    seen: list[Tensor] = []
    descend = run._descend

    def spied(real: Tensor, fake: Tensor) -> None:
        seen.append(fake.clone())
        descend(real, fake)

    monkeypatch.setattr(run, "_descend", spied)
    return seen


def checked(x: Tensor) -> Tensor:
    """Say which images are a noisy chess board."""
    return (x - negatives(1)).abs().flatten(1).mean(1) < 0.1


def test_adversarial_images_fill_their_share_and_never_enter_the_bank(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = ContrastiveDivergence(TINY, task(), negatives=negatives(), share=0.25)
    seen = fakes(run, monkeypatch)
    while run.step < run.total:
        before = run.bank.clone()
        run.advance()
        changed = (run.bank != before).flatten(1).any(1)
        assert 0 < changed.sum() <= 6, "only the slots of the chains may change"
        assert not checked(run.bank).any()
    for fake in seen:
        assert len(fake) == 8
        assert checked(fake).tolist() == 6 * [False] + 2 * [True]
        assert not torch.equal(fake[6:], negatives(2)), "they have the noise of the data"
    assert "adv gap" in run.metrics()


def test_negatives_with_no_share_change_nothing() -> None:
    standard = ended(ContrastiveDivergence(TINY, task()))
    given = ended(ContrastiveDivergence(TINY, task(), negatives=negatives(), share=0.0))
    assert_same(given, standard)
    without = ended(ContrastiveDivergence(TINY, task(), negatives=None, share=0.5))
    assert_same(without, standard)
    used = ended(ContrastiveDivergence(TINY, task(), negatives=negatives(), share=0.25))
    assert not torch.equal(used.bank, standard.bank)


@pytest.mark.parametrize(("share", "kept"), [(0.999, 7), (0.9, 7), (0.5, 4), (0.05, 0)])
def test_one_chain_is_kept_whatever_the_share(share: float, kept: int) -> None:
    run = ContrastiveDivergence(TINY, task(), negatives=negatives(), share=share)
    assert run.adversarial == kept
    before = run.bank.clone()
    run.advance()
    assert (run.bank != before).flatten(1).any(1).sum() == 8 - kept


def test_the_energy_of_data_falls_below_that_of_negatives() -> None:
    recipe = dataclasses.replace(TINY, iterations=60, batch=16, chain_steps=5, ema=0.9)
    run = ContrastiveDivergence(recipe, task(), negatives=negatives(), share=0.25)
    net = EnergyNet((1, 8, 8), width=4)

    def gaps() -> tuple[float, float]:
        net.load_state_dict(run.weights())
        with torch.no_grad():
            data = net(task().validation.x).mean()
            noise = torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(1))
            return float(net(noise).mean() - data), float(net(negatives()).mean() - data)

    before = gaps()
    ended(run)
    after = gaps()
    assert min(after) > 0.1
    assert min(after) > 2 * max(before)
    with torch.no_grad():
        held_out = float(net(task().validation.x).mean())
    assert run.evaluate()["energy held out"] == held_out


def test_chains_stay_in_the_box_and_start_from_the_bank(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    starts: list[Tensor] = []
    run = ContrastiveDivergence(dataclasses.replace(TINY, fresh=0.0), task())
    chains = run._chains

    def spied(x: Tensor, normal: Any) -> Tensor:
        starts.append(x.clone())
        return chains(x, normal)

    monkeypatch.setattr(run, "_chains", spied)
    for k in range(4):
        before = run.bank.clone()
        run.advance()
        assert all(any(torch.equal(row, slot) for slot in before) for row in starts[k])
        assert run.bank.min() >= 0
        assert run.bank.max() <= 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_divergence_is_an_error_with_advice(
    value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ContrastiveDivergence(TINY, task())
    run.advance()
    run.metrics()
    forward = EnergyNet.forward
    monkeypatch.setattr(
        bench_defenses.energies.contrastive.EnergyNet,
        "forward",
        lambda self, x: forward(self, x) + value,
    )
    run.advance()
    with pytest.raises(
        PluginError, match=r"diverged at iteration 2.*Lower defense\.training\.lr"
    ):
        run.metrics()


def test_every_seed_draws_its_own_batches(monkeypatch):
    drawn = []
    for seed in (0, 1):
        run = ContrastiveDivergence(dataclasses.replace(TINY, seed=seed), task())
        monkeypatch.setattr(run, "_descend", lambda real, fake: drawn.append(real))
        run.advance()
    assert not torch.equal(*drawn)

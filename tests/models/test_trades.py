"""TRADES: its loss, its attack within the ball, exact resuming, and what it is worth."""

from __future__ import annotations

import copy
import dataclasses
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.api import Norm, Task, size
from bench.data.load import load_train
from bench_defenses.classifiers.trades_cnn import Trades, TradesCnn, TradesRecipe

from ..cells import CPU

SHORT = TradesRecipe(epochs=8, batch=64, lr=0.01, eps="0.1", steps=3, step_size=0.05)


@functools.cache
def task() -> Task:
    train, held_out, _ = load_train("digits", root=Path())
    return Task(train, held_out, classes=10, device=CPU)


def trades(**changes: Any) -> Trades:
    return TradesCnn(width=8, training=dataclasses.replace(SHORT, **changes)).start(task())


def chance() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def advance(run: Trades, to: int) -> None:
    while run.step < to:
        run.advance()


@functools.cache
def learned() -> Trades:
    """A network that has begun to tell the classes apart, as the next tests need one."""
    run = trades()
    advance(run, run.total)
    return run


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_resumed_training_is_the_uninterrupted_one(precision: str) -> None:
    whole, first = trades(precision=precision), trades(precision=precision)
    advance(whole, 9)
    advance(first, 4)
    kept = copy.deepcopy(first.state())
    second = trades(precision=precision)
    second.restore(kept)
    advance(second, 9)
    for name, tensor in whole.weights().items():
        assert torch.equal(tensor, second.weights()[name]), name


def test_the_loss_is_that_of_the_paper() -> None:
    """Cross-entropy of clean images, and beta times the mean of KL(clean | attacked)."""
    x, y = task().train.x[:32], task().train.y[:32]
    run, alone = learned(), trades(beta=1e-9)
    alone.restore(copy.deepcopy(run.state()))
    found, bare = (float(one.loss(x, y, chance()).detach()) for one in (run, alone))
    assert bare == pytest.approx(float(F.cross_entropy(run.net(x), y).detach()), rel=1e-5)
    x_adv = run.furthest(x, chance(), share=1.0)
    clean, attacked = (run.net(one).detach().softmax(1) for one in (x, x_adv))
    apart = (clean * (clean / attacked).log()).sum(1).mean()
    assert apart > 1e-3
    assert found - bare == pytest.approx(6.0 * float(apart), rel=1e-3)


def test_its_attack_stays_in_the_growing_ball_and_finds_more_than_noise() -> None:
    run, x = copy.copy(learned()), task().train.x[:64]
    run.net.zero_grad()

    def apart(x_adv: Tensor) -> float:
        clean, other = (run.net(one).detach().log_softmax(1) for one in (x, x_adv))
        return float((clean.exp() * (clean - other)).sum(1).mean())

    for step, share in ((0, 0.0), (run.total // 4, 0.5), (run.total, 1.0)):
        run.step = step
        assert run.share() == pytest.approx(share, abs=0.02)
        x_adv = run.furthest(x, chance(), share=run.share())
        moved = size(x_adv - x, Norm.LINF)
        assert float(moved.max()) <= 0.1 * run.share() + 1e-6
        assert float(x_adv.min()) >= 0
        assert float(x_adv.max()) <= 1
        assert not x_adv.requires_grad
    signs = torch.randint(2, x.shape, generator=chance()) * 2 - 1
    assert apart(x_adv) > 2 * apart((x + 0.1 * signs).clamp(0, 1))
    assert all(parameter.grad is None for parameter in run.net.parameters())


def test_it_is_robust_where_it_was_trained_to_be() -> None:
    found = learned().evaluate()
    assert found["validation accuracy"] > 0.85
    assert found["validation accuracy under PGD"] > 0.6

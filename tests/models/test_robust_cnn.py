"""The adversarially trained classifier: resumed bit for bit, and more robust than the other."""

from __future__ import annotations

import copy
import dataclasses
import functools
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import nn

from bench.api import Access, Norm, Rng, Task, ThreatModel, size
from bench.core.access import TransferView
from bench.data.load import load_train
from bench_attacks.pgd import Pgd
from bench_defenses.classifiers.robust_cnn import AdversarialTraining, RobustCnn, RobustRecipe
from bench_defenses.classifiers.small_cnn import SmallCnn
from bench_defenses.classifiers.supervised import SupervisedRecipe

from ..cells import CPU

SHORT = RobustRecipe(epochs=8, batch=64, lr=0.01, eps="0.1", steps=3, step_size=0.05)


@functools.cache
def task() -> Task:
    train, held_out, _ = load_train("digits", root=Path())
    return Task(train, held_out, classes=10, device=CPU)


def robust(**changes: object) -> AdversarialTraining:
    recipe = dataclasses.replace(SHORT, **changes)
    return RobustCnn(width=8, training=recipe).start(task())


def advance(run: AdversarialTraining, to: int) -> None:
    while run.step < to:
        run.advance()


def test_a_resumed_training_is_the_uninterrupted_one() -> None:
    whole, first = robust(), robust()
    advance(whole, 12)
    advance(first, 5)
    kept = copy.deepcopy(first.state())
    second = robust()
    second.restore(kept)
    advance(second, 12)
    for name, tensor in whole.weights().items():
        assert torch.equal(tensor, second.weights()[name]), name
    other = robust(seed=1)
    advance(other, 12)
    assert not torch.equal(
        other.weights()["layers.0.weight"], whole.weights()["layers.0.weight"]
    )


def test_training_images_are_attacked_in_a_growing_ball() -> None:
    run = robust(warm_up=0.5)
    x, y = task().train.x[:32], task().train.y[:32]
    radii = {0: 0.0, run.total // 4: 0.05, run.total // 2: 0.1, run.total: 0.1}
    for step, radius in radii.items():
        run.step = step
        x_adv = run.perturbed(x, y, torch.Generator().manual_seed(0))
        assert float(size(x_adv - x, Norm.LINF).max()) == pytest.approx(radius, abs=2e-3)
        assert float(x_adv.min()) >= 0
        assert float(x_adv.max()) <= 1
        assert not x_adv.requires_grad
    assert all(parameter.grad is None for parameter in run.net.parameters())


def test_its_attack_raises_the_loss_more_than_its_random_start() -> None:
    weak, strong = robust(step_size=1e-9), robust()
    x, y = task().train.x[:64], task().train.y[:64]
    losses = []
    for run in (weak, strong):
        run.step = run.total
        x_adv = run.perturbed(x, y, torch.Generator().manual_seed(0))
        losses.append(float(nn.functional.cross_entropy(run.net(x_adv), y).detach()))
    assert losses[1] > losses[0] + 1e-3


def test_it_beats_the_natural_one_under_pgd() -> None:
    run = robust()
    advance(run, run.total)
    natural = SmallCnn(width=8, training=SupervisedRecipe(epochs=8, batch=64, lr=0.01))
    plain = natural.start(task())
    while plain.step < plain.total:
        plain.advance()
    held_out = task().validation
    threat = ThreatModel(Norm.LINF, Fraction(1, 10), Access.TRANSFER)
    right = []
    for net in (plain.net, run.net):
        view = TransferView(net.eval())
        rng = Rng.seeded(0, held_out.indices)
        x_adv = Pgd(steps=10)(view, held_out.x, held_out.y, threat=threat, rng=rng)
        right.append(float((net(x_adv).argmax(1) == held_out.y).float().mean()))
    assert right[1] > right[0] + 0.2
    found = run.evaluate()
    assert found["validation accuracy"] > 0.85
    # Its own three steps are a weaker attack, and near to this one.
    assert right[1] - 0.02 <= found["validation accuracy under PGD"] <= right[1] + 0.2


def test_its_recipes_are_those_of_its_data_sets() -> None:
    assert RobustCnn.recipe("digits")["training"]["eps"] == "0.1"
    assert RobustCnn.recipe("mnist")["training"]["eps"] == "0.3"

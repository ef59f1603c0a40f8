"""The network of airbench trained by N-FGSM: its step, exact resuming, its worth."""

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

from bench.api import Task
from bench.data.load import load_train
from bench_defenses.classifiers.airbench import Airbench
from bench_defenses.classifiers.quick import Quick, QuickRecipe
from bench_defenses.classifiers.robust_airbench import (
    NoisyFgsm,
    NoisyFgsmRecipe,
    RobustAirbench,
)
from bench_defenses.classifiers.robust_cnn import accuracy_under_pgd

EPS = 0.1
TINY = NoisyFgsmRecipe(epochs=8, batch=32, lr=0.5, shift=0, eps=str(EPS))


@functools.cache
def task() -> Task:
    train, held_out, _ = load_train("digits", root=Path())
    return Task(train, held_out, classes=10, device=torch.device("cpu"))


def tiny(**changes: Any) -> NoisyFgsm:
    return RobustAirbench(width=8, training=dataclasses.replace(TINY, **changes)).start(task())


def ended(run: Quick) -> Quick:
    while run.step < run.total:
        run.advance()
    return run


def chance() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_without_noise_it_is_the_fast_gradient_sign_method() -> None:
    run, images = tiny(noise=0.0), task().train[:32]
    leaf = images.x.clone().requires_grad_()
    logits = copy.deepcopy(run.net).train()(leaf)
    loss = F.cross_entropy(logits, images.y, label_smoothing=0.2)
    (gradient,) = torch.autograd.grad(loss, leaf)
    expected = (images.x + EPS * gradient.sign()).clamp(0, 1)
    run.net.train()
    assert torch.equal(run.perturbed(images.x, images.y, chance()), expected)


def test_the_step_begins_in_noise_and_is_not_projected() -> None:
    run, images = tiny(), task().train[:64]
    middle = torch.full_like(images.x, 0.5)  # far from black and white: nothing is clamped
    away = (run.perturbed(middle, images.y, chance()) - middle).abs()
    assert float(away.max()) == pytest.approx(3 * EPS, abs=0.01)
    outside = float((away > EPS).float().mean())
    assert 0.4 < outside < 0.6  # |2 u + 1| > 1 for half of u in (-1, 1)
    again = run.perturbed(middle, images.y, chance())
    assert torch.equal((again - middle).abs(), away)


def test_what_it_learns_from_is_an_image_and_leaves_no_gradient() -> None:
    run, images = tiny(), task().train[:64]
    found = run.perturbed(images.x, images.y, chance())
    assert not found.requires_grad
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    assert all(parameter.grad is None for parameter in run.net.parameters())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_resumed_training_is_the_uninterrupted_one(precision: str) -> None:
    whole, first = tiny(precision=precision), tiny(precision=precision)
    for run, steps in ((whole, 9), (first, 4)):
        for _ in range(steps):
            run.advance()
    second = tiny(precision=precision)
    second.restore(copy.deepcopy(first.state()))
    for _ in range(5):
        second.advance()
    for name, tensor in whole.weights().items():
        assert torch.equal(tensor, second.weights()[name]), name


def test_it_beats_the_natural_one_under_pgd() -> None:
    recipe = QuickRecipe(epochs=8, batch=32, lr=0.5, shift=0)
    natural = ended(Airbench(width=8, training=recipe).start(task()))
    run = ended(tiny(noise=1.0))
    attacked = [
        accuracy_under_pgd(
            one.finished().eval(), task().validation,
            radius=EPS, step_size=EPS / 4, steps=10, seed=0,
        )
        for one in (natural, run)
    ]  # fmt: skip
    assert attacked[1] > attacked[0] + 0.2
    found = run.evaluate()
    assert found["validation accuracy"] > 0.85
    assert found["validation accuracy under PGD"] == attacked[1]


def test_its_checkpoint_is_read_as_the_same_network() -> None:
    run = tiny()
    weights: dict[str, Tensor] = run.weights()
    loaded = RobustAirbench(width=8).load(weights, shape=(1, 8, 8), classes=10)
    for key, value in run.finished().state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key


def test_its_recipe_is_that_of_its_data_set() -> None:
    assert RobustAirbench.recipe("cifar10")["training"]["precision"] == "bfloat16"

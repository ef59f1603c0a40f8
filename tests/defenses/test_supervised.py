"""Ordinary training: repeatable, resumable, and augmented as its recipe says."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.api import Images, Task
from bench_defenses.classifiers.resnet18 import ResNet18Net
from bench_defenses.classifiers.small_cnn import SmallCnnNet
from bench_defenses.classifiers.supervised import Supervised, SupervisedRecipe, _augment

TINY = SupervisedRecipe(epochs=3, batch=8, flip=True)


def task(n: int = 30) -> Task:
    """Two classes told apart by their brighter half."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(n) % 2
    x = 0.3 * torch.rand(n, 1, 8, 8, generator=generator)
    x[y == 0, :, :4] += 0.6
    x[y == 1, :, 4:] += 0.6
    images = Images(torch.arange(n), x, y)
    return Task(
        train=images[: n - 6], validation=images[n - 6 :], classes=2, device=torch.device("cpu")
    )


def small() -> nn.Module:
    return SmallCnnNet((1, 8, 8), classes=2, width=2)


def normed() -> nn.Module:
    """A network with running statistics, which a resumed run has to keep too."""
    return ResNet18Net(1, classes=2, width=2)


def ended(run: Supervised) -> Supervised:
    while run.step < run.total:
        run.advance()
    return run


def assert_same(one: Supervised, other: Supervised) -> None:
    ours, theirs = one.weights(), other.weights()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


def test_training_is_repeatable_and_untouched_by_the_global_generator() -> None:
    first = ended(Supervised(TINY, task(), small))
    torch.manual_seed(12345)
    before = torch.get_rng_state()
    second = ended(Supervised(TINY, task(), small))
    assert torch.equal(torch.get_rng_state(), before)
    assert_same(first, second)
    other = ended(Supervised(dataclasses.replace(TINY, seed=1), task(), small))
    assert not torch.equal(next(iter(first.net.parameters())), next(other.net.parameters()))


@pytest.mark.parametrize("make", [small, normed])
def test_a_run_that_is_stored_and_restored_goes_on_exactly(
    make: Callable[[], nn.Module], tmp_path: Path
) -> None:
    whole = ended(Supervised(TINY, task(), make))
    run = Supervised(TINY, task(), make)
    while run.step < run.total:
        run.advance()
        torch.save(run.state(), tmp_path / "state.pt")
        run = Supervised(TINY, task(), make)
        run.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    assert_same(run, whole)
    assert run.schedule.get_last_lr() == whole.schedule.get_last_lr()
    assert run.evaluate() == whole.evaluate()


def test_an_epoch_sees_every_batch_of_another_order_once() -> None:
    run = Supervised(TINY, task(), small)
    assert (run.per_epoch, run.total) == (3, 9)
    epochs = []
    for _ in range(3):
        rows = []
        for _ in range(3):
            rows += run._rows().tolist()
            run.step += 1
        assert sorted(rows) == list(range(24))
        epochs.append(rows)
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_data_set_below_a_batch_is_one_batch() -> None:
    run = ended(Supervised(dataclasses.replace(TINY, batch=100), task(), small))
    assert run.total == 3


def test_it_learns_what_two_halves_tell() -> None:
    recipe = SupervisedRecipe(epochs=15, batch=8, lr=0.01)
    run = Supervised(recipe, task(60), lambda: SmallCnnNet((1, 8, 8), classes=2, width=4))
    run.advance()
    first = run.metrics()["loss"]
    ended(run)
    assert run.metrics()["loss"] < 0.5 * first
    assert run.evaluate() == {"validation accuracy": 1.0}


def test_evaluation_neither_trains_nor_remembers() -> None:
    run = Supervised(TINY, task(), normed)
    run.advance()
    before = {name: value.clone() for name, value in run.weights().items()}
    assert run.evaluate() == run.evaluate()
    assert all(torch.equal(value, before[name]) for name, value in run.weights().items())


def augmented(x: Tensor, seed: int = 0, **recipe: Any) -> Tensor:
    return _augment(x, SupervisedRecipe(**recipe), torch.Generator().manual_seed(seed))


def test_shifts_are_whole_pixels_with_zeros_at_the_border() -> None:
    x = torch.rand(40, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    shifted = augmented(x, shift=2)
    padded = torch.nn.functional.pad(x, (2, 2, 2, 2))
    offsets = set()
    for image, found in zip(padded, shifted, strict=True):
        (offset,) = [
            (i, j)
            for i in range(5)
            for j in range(5)
            if torch.equal(image[:, i : i + 8, j : j + 8], found)
        ]
        offsets.add(offset)
    assert len(offsets) > 15, "images move one by one and not together"
    assert torch.equal(augmented(x, shift=0), x)


def test_flips_mirror_about_half_of_the_images() -> None:
    x = torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    flipped = augmented(x, shift=0, flip=True)
    mirrored = (flipped == x.flip(3)).flatten(1).all(1)
    kept = (flipped == x).flatten(1).all(1)
    assert (mirrored ^ kept).all()
    assert 70 < mirrored.sum() < 130

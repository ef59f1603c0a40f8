"""ResNet-18: its shapes, that it learns, and that no row depends on its batch."""

from __future__ import annotations

import pytest
import torch

from bench.core.defense import Defense
from bench.core.protocols import Images
from bench.errors import CheckpointError
from bench.models.trainable import Task, TrainableClassifier
from bench_defenses.classifiers.resnet18 import ResNet18, ResNet18Net
from bench_defenses.classifiers.supervised import SupervisedRecipe
from bench_defenses.none import Identity


def task(shape: tuple[int, ...], classes: int = 2) -> Task:
    """Bright images against dark ones."""
    y = torch.arange(32) % classes
    x = torch.rand(32, *shape, generator=torch.Generator().manual_seed(0)) * 0.4
    x += 0.5 * (y == 1).reshape(-1, 1, 1, 1)
    block = Images(torch.arange(32), x, y)
    return Task(train=block, validation=block, classes=classes, device=torch.device("cpu"))


def test_the_default_is_the_resnet18_of_the_literature() -> None:
    net = ResNet18Net(3, classes=10, width=64)
    assert sum(parameter.numel() for parameter in net.parameters()) == 11_173_962
    convolutions = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len([conv for conv in convolutions if conv.kernel_size == (3, 3)]) == 17
    assert net.blocks(torch.rand(1, 64, 32, 32)).shape == (1, 512, 4, 4)


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)], ids=str)
def test_it_takes_the_images_of_every_data_set(shape: tuple[int, ...]) -> None:
    plugin = ResNet18(width=2)
    fresh = ResNet18Net(shape[0], classes=7, width=2)
    net = plugin.load(fresh.state_dict(), shape=shape, classes=7)
    assert net(torch.rand(2, *shape)).shape == (2, 7)


def test_it_learns_and_its_weights_come_back() -> None:
    plugin = ResNet18(width=4, training=SupervisedRecipe(epochs=10, batch=16, lr=1e-2))
    assert isinstance(plugin, TrainableClassifier)
    work = task((1, 8, 8))
    run = plugin.start(work)
    while run.step < run.total:
        run.advance()
    assert run.evaluate()["validation accuracy"] == 1
    loaded = plugin.load(run.weights(), shape=(1, 8, 8), classes=2)
    defense = Defense(Identity(), loaded)
    logits = defense(work.train.x)
    assert (logits.argmax(1) == work.train.y).all()
    assert torch.allclose(defense(work.train.x[:1]), logits[:1], atol=1e-4)


def test_weights_of_another_width_are_refused() -> None:
    weights = ResNet18Net(1, classes=2, width=2).state_dict()
    with pytest.raises(CheckpointError, match="ResNet18Net"):
        ResNet18(width=4).load(weights, shape=(1, 8, 8), classes=2)

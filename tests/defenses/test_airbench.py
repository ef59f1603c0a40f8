"""The network of airbench94 and its training: white, mirrored in turn, averaged, resumable."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.api import CheckpointError, Images, Task, TrainableClassifier
from bench_defenses.classifiers.airbench import Airbench, AirbenchNet
from bench_defenses.classifiers.quick import Quick, QuickRecipe

TINY = QuickRecipe(epochs=4, batch=16, lr=0.2, shift=1)


def task(n: int = 96) -> Task:
    """Two classes told apart by their brighter half, above or below."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(n) % 2
    x = 0.3 * torch.rand(n, 1, 8, 8, generator=generator)
    x[y == 0, :, :4] += 0.6
    x[y == 1, :, 4:] += 0.6
    images = Images(torch.arange(n), x, y)
    return Task(
        train=images[: n - 32], validation=images[n - 32 :], classes=2,
        device=torch.device("cpu"),
    )  # fmt: skip


def tiny(recipe: QuickRecipe = TINY) -> Airbench:
    return Airbench(width=4, training=recipe)


def ended(run: Quick) -> Quick:
    while run.step < run.total:
        run.advance()
    return run


def test_the_default_is_the_network_of_the_paper() -> None:
    net = AirbenchNet(3, classes=10, width=64)
    assert sum(one.numel() for one in net.parameters() if one.ndim > 1) == 1_970_464
    assert net.blocks(torch.rand(1, 24, 31, 31)).shape == (1, 256, 3, 3)


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)], ids=str)
def test_it_takes_the_images_of_every_data_set(shape: tuple[int, ...]) -> None:
    fresh = AirbenchNet(shape[0], classes=7, width=2)
    net = Airbench(width=2).load(fresh.state_dict(), shape=shape, classes=7)
    assert net(torch.rand(2, *shape)).shape == (2, 7)


def test_the_stem_makes_patches_white_and_is_not_trained() -> None:
    x = F.interpolate(torch.rand(200, 3, 4, 4), size=12, mode="bilinear")  # neighbours alike
    net = AirbenchNet(3, classes=2, width=2).whiten(x)
    seen = net.stem((x - 0.5) / 0.25).transpose(0, 1).flatten(1)
    white, negative = seen[:12], seen[12:]
    assert torch.equal(negative, -white)
    covariance = white.cov()
    raw = F.unfold((x - 0.5) / 0.25, 2).transpose(0, 1).flatten(1).cov()
    assert raw.fill_diagonal_(0).abs().max() > 0.5
    assert (covariance - torch.diag(covariance.diag())).abs().max() < 1e-3
    assert ((covariance.diag() > 0.5) & (covariance.diag() < 1.01)).all()
    run = tiny().start(task())
    before = run.net.state_dict()["stem.weight"].clone()
    assert torch.equal(ended(run).net.state_dict()["stem.weight"], before)


def test_it_learns_and_its_weights_come_back_in_half_precision() -> None:
    plugin, work = tiny(), task()
    assert isinstance(plugin, TrainableClassifier)
    run = ended(plugin.start(work))
    assert run.evaluate() == {"validation accuracy": 1.0}
    weights = run.weights()
    assert {v.dtype for v in weights.values() if v.ndim > 1} == {torch.float16}
    loaded = plugin.load(weights, shape=(1, 8, 8), classes=2).eval()
    assert {v.dtype for v in loaded.parameters()} == {torch.float32}
    evaluated = run.finished().state_dict()
    for key, value in loaded.state_dict().items():
        assert torch.equal(evaluated[key], value), key
    with torch.no_grad():
        assert (loaded(work.train.x).argmax(1) == work.train.y).all()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_run_that_is_stored_and_restored_goes_on_exactly(
    precision: str, tmp_path: Path
) -> None:
    plugin = tiny(dataclasses.replace(TINY, epochs=2, precision=precision))
    whole, run = ended(plugin.start(task())), plugin.start(task())
    while run.step < run.total:
        run.advance()
        torch.save(run.state(), tmp_path / "state.pt")
        run = plugin.start(task())
        run.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    for name, value in whole.weights().items():
        assert torch.equal(run.weights()[name], value), name


def test_every_image_is_mirrored_in_every_other_epoch() -> None:
    work = task()
    run = tiny(dataclasses.replace(TINY, shift=0)).start(work)
    rows = torch.arange(64)

    def mirrored(epoch: int) -> Tensor:
        run.step = epoch * run.per_epoch
        found = run.augmented(work.train.x, rows, torch.Generator())
        flipped = (found == work.train.x.flip(3)).flatten(1).all(1)
        kept = (found == work.train.x).flatten(1).all(1)
        assert (flipped ^ kept).all()
        return flipped

    first = mirrored(0)
    assert 15 < first.sum() < 50
    assert torch.equal(mirrored(1), ~first)
    assert torch.equal(mirrored(2), first)
    assert torch.equal(mirrored(3), ~first)


def test_the_learning_rate_is_a_triangle_and_biases_have_their_own() -> None:
    run = tiny(dataclasses.replace(TINY, epochs=25)).start(task())  # 100 iterations
    rates = []
    while run.step < run.total:
        rates.append([group["lr"] for group in run.optimizer.param_groups])
        run.optimizer.step()
        run.schedule.step()
        run.step += 1
    weights, biases = zip(*rates, strict=True)
    assert weights[0] == pytest.approx(0.04)
    assert max(weights) == weights[23] == pytest.approx(0.2)
    assert weights[-1] == pytest.approx(0.2 * (1 - 0.93 * 76 / 77))
    assert biases == pytest.approx([64 * one for one in weights])
    decays = [group["lr"] * group["weight_decay"] for group in run.optimizer.param_groups]
    assert decays[0] == pytest.approx(decays[1]), "biases decay as fast as weights"


def test_it_ends_with_the_average_of_what_it_passed() -> None:
    """With four iterations there is one look ahead, at the end."""
    run = tiny(dataclasses.replace(TINY, epochs=1)).start(task())
    start = run.net.state_dict()["head.weight"].clone()
    while run.step < run.total - 1:
        run.advance()
    before = run.net.state_dict()["head.weight"].clone()
    run.advance()
    end = run.net.state_dict()["head.weight"]
    assert 0.1 < (end - start).norm() / (before - start).norm() < 0.4


def test_labels_are_softened() -> None:
    """The loss is the mean divergence from a fifth of a uniform label, up to a constant."""
    run, images = tiny().start(task()), task().train
    with torch.no_grad():
        loss = run.loss(images.x, images.y, torch.Generator())
        logs = run.net(images.x).log_softmax(1)
    soft = 0.8 * F.one_hot(images.y, 2) + 0.2 / 2
    assert float(loss) == pytest.approx(float(-(soft * logs).sum(1).mean()), rel=1e-4)


def test_bfloat16_is_for_the_passes_and_the_weights_stay_in_float32() -> None:
    runs = [
        tiny(dataclasses.replace(TINY, precision=name)).start(task())
        for name in ("float32", "bfloat16")
    ]
    for run in runs:
        run.advance()
        assert {one.dtype for one in run.net.parameters()} == {torch.float32}
    fine, coarse = (run.metrics()["loss"] for run in runs)
    assert fine != coarse
    assert coarse == pytest.approx(fine, rel=0.05)


def test_weights_of_another_width_are_refused() -> None:
    weights: dict[str, Tensor] = nn.Module.state_dict(AirbenchNet(1, classes=2, width=2))
    with pytest.raises(CheckpointError, match="AirbenchNet"):
        Airbench(width=4).load(weights, shape=(1, 8, 8), classes=2)

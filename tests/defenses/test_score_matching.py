"""Score matching: what is fitted, what attacks on the fly find, and exact resuming."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.api import Access, Images, Norm, PluginError, Rng, Task, cross_entropy, size
from bench.data.load import load_train
from bench_defenses.adv_ebm_plus import AdvEbmPlus
from bench_defenses.energies.langevin import LangevinPurifier
from bench_defenses.energies.score_matching import ScoreMatching, ScoreRecipe

from .bowl import Bowl

EPS = 0.2
TINY = ScoreRecipe(iterations=6, batch=8, width=4, eps="0.2", ema=0.5)
ONLINE = dataclasses.replace(TINY, online_steps=3, online_purify=2, online_step_size=5.0)


@functools.cache
def linear() -> nn.Linear:
    """A linear classifier of the digits, by closed-form ridge regression on their classes."""
    digits = load_train("digits", root=Path())[0]
    flat = torch.cat((digits.x.flatten(1), torch.ones(len(digits), 1)), 1).double()
    hot = nn.functional.one_hot(digits.y, 10).double()
    solved = torch.linalg.solve(flat.T @ flat + torch.eye(65).double(), flat.T @ hot).float()
    layer = nn.Linear(64, 10)
    with torch.no_grad():
        layer.weight.copy_(10 * solved[:64].T)
        layer.bias.copy_(10 * solved[64])
    return layer


def classifier() -> nn.Module:
    return nn.Sequential(nn.Flatten(), linear())


def task(n: int = 96) -> Task:
    """Digits, of which the first half has been attacked by one sign step."""
    digits = load_train("digits", root=Path())[0]
    train, network = digits[:n], classifier()
    x, y = train.x[: n // 2].clone().requires_grad_(), train.y[: n // 2]
    (gradient,) = torch.autograd.grad(cross_entropy(network(x), y).sum(), x)
    return Task(
        train=train,
        validation=digits[n : n + 48],
        classes=10,
        device=torch.device("cpu"),
        classifier=network,
        adversarial=(x.detach() + EPS * gradient.sign()).clamp(0, 1),
    )


def ended(run: ScoreMatching) -> ScoreMatching:
    while run.step < run.total:
        run.advance()
    return run


def flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, list):
        value = dict(enumerate(value))
    if isinstance(value, dict):
        return {k: v for name in value for k, v in flat(value[name], f"{path}/{name}").items()}
    return {path: value}


def assert_same(one: ScoreMatching, other: ScoreMatching) -> None:
    ours, theirs = flat(one.state()), flat(other.state())
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        same = torch.equal(value, theirs[name]) if isinstance(value, Tensor) else None
        assert value == theirs[name] if same is None else same, name


@pytest.mark.parametrize(
    ("share", "loss", "cosine"), [(1.0, 0.0, 1.0), (0.5, 0.25, 1.0), (-1.0, 4.0, -1.0)]
)
def test_the_loss_of_a_known_energy(share: float, loss: float, cosine: float) -> None:
    """A bowl of another depth misses its goal by (1 - share)^2 of the goal."""
    run = ScoreMatching(TINY, task())
    x = run.task.validation.x
    offset = 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    found = run.misfit(Bowl(x, share * TINY.pull), x, offset)
    assert [float(value) for value in found] == pytest.approx([loss, cosine], abs=1e-4)


def test_a_flat_energy_has_loss_one_and_no_cosine() -> None:
    run = ScoreMatching(TINY, task())
    x = run.task.validation.x
    found = run.misfit(Bowl(x, 0.0), x, torch.full_like(x, 0.1))
    assert [float(value) for value in found] == [1.0, 0.0]


def fitted(run: ScoreMatching, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor]]:
    """Collect the clean images and the offsets of each iteration."""
    seen: list[tuple[Tensor, Tensor]] = []
    misfit = run.misfit

    def spy(net: nn.Module, x: Tensor, offset: Tensor, **rest: Any) -> tuple[Tensor, Tensor]:
        seen.append((x, offset))
        return misfit(net, x, offset, **rest)

    monkeypatch.setattr(run, "misfit", spy)
    return seen


def test_offsets_lie_between_a_clean_image_and_its_own_adversarial_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = task()
    assert given.adversarial is not None
    run = ScoreMatching(dataclasses.replace(TINY, sigma=0.0), given)
    seen = fitted(run, monkeypatch)
    ended(run)
    shares = []
    for x, offset in seen:
        assert len(x) == TINY.batch
        for image, moved in zip(x, offset, strict=True):
            (row,) = (given.train.x == image).flatten(1).all(1).nonzero()[0]
            assert row < 48, "an image that was not attacked"
            whole = given.adversarial[row] - image
            share = float((moved * whole).sum() / whole.square().sum())
            assert torch.allclose(moved, share * whole, atol=1e-6)
            shares.append(share)
    assert 0 <= min(shares) < 0.25 < 0.75 < max(shares) <= 1


def test_another_seed_draws_other_images_in_every_iteration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Seeds that meet in their lower 32 bits would draw the same ones."""
    clean = []
    for seed in (0, 1):
        run = ScoreMatching(dataclasses.replace(TINY, seed=seed), task())
        seen = fitted(run, monkeypatch)
        ended(run)
        clean += [x for x, _ in seen]
    pairs = itertools.combinations(clean, 2)
    assert not any(torch.equal(one, other) for one, other in pairs)


def test_sigma_is_the_noise_of_every_offset(monkeypatch: pytest.MonkeyPatch) -> None:
    given = task()
    still = dataclasses.replace(given, adversarial=given.train.x[:48])
    run = ScoreMatching(dataclasses.replace(TINY, sigma=0.3, batch=64), still)
    seen = fitted(run, monkeypatch)
    run.advance()
    assert float(seen[0][1].std()) == pytest.approx(0.3, rel=0.05)
    assert float(seen[0][1].mean()) == pytest.approx(0.0, abs=0.02)


def test_training_lowers_the_loss_and_turns_the_gradient_back() -> None:
    run = ScoreMatching(
        dataclasses.replace(TINY, iterations=150, batch=32, width=8, lr=3e-3, ema=0.9), task()
    )
    before = run.evaluate()
    ended(run)
    after = run.evaluate()
    assert set(run.metrics()) == {"loss", "cosine"}
    assert before["loss held out"] == pytest.approx(1.0, abs=0.05)
    assert after["loss held out"] < 0.9
    assert after["cosine held out"] > before["cosine held out"] + 0.2
    x, moved = run.task.train.x[:48], run.task.adversarial
    assert moved is not None
    purifier = LangevinPurifier(run.finished(), steps=10, step_size=5.0, noise=0.0)
    cleaned = purifier.purify(moved, rng=Rng.seeded(0, torch.arange(48)))
    assert size(cleaned - x, Norm.L2).mean() < 0.9 * size(moved - x, Norm.L2).mean()


@pytest.mark.parametrize("recipe", [TINY, ONLINE], ids=["plain", "online"])
def test_a_run_that_is_stored_and_restored_goes_on_exactly(
    recipe: ScoreRecipe, tmp_path: Path
) -> None:
    whole = ended(ScoreMatching(recipe, task()))
    torch.manual_seed(12345)
    before = torch.get_rng_state()
    run = ScoreMatching(recipe, task())
    for _ in range(recipe.iterations):
        run.advance()
        torch.save(run.state(), tmp_path / "state.pt")
        run = ScoreMatching(recipe, task())
        run.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(torch.get_rng_state(), before)
    assert run.step == run.total
    assert_same(run, whole)
    assert run.evaluate() == whole.evaluate()
    other = ended(ScoreMatching(dataclasses.replace(recipe, seed=1), task()))
    assert other.evaluate() != whole.evaluate()


def test_the_learning_rate_falls_to_zero() -> None:
    run = ScoreMatching(TINY, task())
    rates = []
    while run.step < run.total:
        run.advance()
        rates.append(run.optimizer.param_groups[0]["lr"])
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == TINY.lr
    assert rates[3] == pytest.approx(TINY.lr / 2)
    assert rates[-1] == pytest.approx(TINY.lr * (1 + math.cos(math.pi * 5 / 6)) / 2)


@pytest.mark.parametrize(("norm", "eps"), [(Norm.LINF, "0.1"), (Norm.L2, "0.5")])
def test_an_attack_on_the_fly_is_legal_and_raises_the_cross_entropy(
    norm: Norm, eps: str
) -> None:
    run = ScoreMatching(dataclasses.replace(ONLINE, norm=norm, eps=eps), task())
    x, y = run.task.train.x, run.task.train.y
    weights = {name: value.clone() for name, value in run.net.state_dict().items()}
    x_adv = run.attack(x, y)
    assert not x_adv.requires_grad
    assert size(x_adv - x, norm).max() <= float(eps) + 1e-6
    assert size(x_adv - x, norm).mean() > 0.5 * float(eps)
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    for name, value in run.net.state_dict().items():
        assert torch.equal(value, weights[name]), "the attack changed the energy"
    assert all(p.requires_grad and p.grad is None for p in run.net.parameters())

    purifier = LangevinPurifier(run.net, steps=2, step_size=5.0, noise=0.01)
    rng = Rng.seeded(99, torch.arange(len(x)))

    def loss(at: Tensor) -> float:
        with torch.no_grad():
            return float(cross_entropy(run.classifier(purifier.purify(at, rng=rng)), y).mean())

    start = dataclasses.replace(run.recipe, online_steps=0)
    run.recipe = start
    assert loss(x_adv) > loss(run.attack(x, y)) + 0.1
    assert torch.equal(run.attack(x, y), run.attack(x, y))


def test_an_attack_on_the_fly_goes_through_the_energy_as_it_is() -> None:
    """Behind an energy that leads elsewhere another image is found."""
    run = ScoreMatching(dataclasses.replace(ONLINE, online_step_size=40.0), task())
    x, y = run.task.train.x[:16], run.task.train.y[:16]
    before = run.attack(x, y)
    with torch.no_grad():
        for parameter in run.net.parameters():
            parameter.mul_(3)
    assert not torch.equal(run.attack(x, y), before)


def test_the_classifier_is_left_as_it_was() -> None:
    run = ScoreMatching(ONLINE, task())
    kept = {name: value.clone() for name, value in run.classifier.state_dict().items()}
    ended(run)
    assert all(p.grad is None for p in run.classifier.parameters())
    for name, value in run.classifier.state_dict().items():
        assert torch.equal(value, kept[name])


@pytest.mark.parametrize(("share", "online"), [(0.0, 0), (0.5, 4), (1.0, 8)])
def test_attacks_on_the_fly_fill_their_share(
    share: float, online: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ScoreMatching(dataclasses.replace(ONLINE, online_share=share, sigma=0.0), task())
    seen, found = fitted(run, monkeypatch), []
    attack = run.attack

    def spy(x: Tensor, y: Tensor, **rest: Any) -> Tensor:
        rows = [(run.task.train.x == image).flatten(1).all(1) for image in x]
        assert all(y[i] in run.task.train.y[row] for i, row in enumerate(rows))
        found.append((x, attack(x, y, **rest)))
        return found[-1][1]

    monkeypatch.setattr(run, "attack", spy)
    run.advance()
    ((x, offset),) = seen
    assert len(x) == 8
    assert len(found) == bool(online)
    for clean, x_adv in found:
        assert len(clean) == online
        assert torch.equal(x[8 - online :], clean)
        ratio = offset[8 - online :] / (x_adv - clean)
        for row in ratio.flatten(1):
            row = row[row.isfinite()]
            assert torch.allclose(row, row.mean(), atol=1e-3)


def test_without_a_classifier_there_is_nothing_to_train_on() -> None:
    whole = task()
    for missing in ({"classifier": None}, {"adversarial": None}):
        bare = dataclasses.replace(whole, **missing)
        with pytest.raises(PluginError, match=r"Train it in front of a classifier"):
            AdvEbmPlus().start(bare)
    with pytest.raises(PluginError, match=r"eps to a finite radius"):
        ScoreMatching(dataclasses.replace(TINY, eps="inf"), whole)


def test_divergence_is_an_error_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    run = ScoreMatching(dataclasses.replace(TINY, pull=1e-9), task())
    run.advance()
    with pytest.raises(PluginError, match=r"diverged at iteration 1.*defense\.training\.lr"):
        run.metrics()


def test_the_plugin_asks_for_images_of_its_own_ball() -> None:
    asked = AdvEbmPlus(training=dataclasses.replace(TINY, images=7)).negatives()
    assert asked is not None
    assert (asked.threat.norm, float(asked.threat.radius)) == (Norm.LINF, EPS)
    assert asked.threat.access is Access.TRANSFER
    assert (asked.images, asked.classifier_seed) == (7, None)


def test_images_of_a_task_are_never_changed() -> None:
    given = task()
    kept = [given.train.x.clone(), given.adversarial.clone()]
    ended(ScoreMatching(ONLINE, given))
    assert torch.equal(given.train.x, kept[0])
    assert given.adversarial is not None
    assert torch.equal(given.adversarial, kept[1])
    assert isinstance(given.train, Images)

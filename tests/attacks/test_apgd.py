"""Auto-PGD against closed forms, a plain loop, its authors' code and its own promises."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

import pyautoattack.autopgd_base
import pytest
import torch
from attack_toys import (
    Identity,
    Negative,
    Pull,
    Recorder,
    ball,
    firm_problem,
    linear_problem,
    misses,
    small_problem,
    streams,
)
from torch import Tensor, nn

import bench_attacks.apgd
from bench.api import (
    LOSSES,
    Access,
    AveragedGradient,
    Defense,
    Images,
    Norm,
    Rng,
    WarmAttack,
    averaged_loss,
    margin,
    project,
    size,
)
from bench.core.access import view_of
from bench.errors import PluginError
from bench.evaluation.judge import judge
from bench.evaluation.propose import propose
from bench_attacks.apgd import Apgd, Ascent, checkpoints
from bench_attacks.pgd import Pgd, random_point

NORMS = list(Norm)


@dataclass
class Hazy(Identity):
    """Only Gaussian noise, which leaves the mean logits of a linear classifier as they are."""

    noise: float = 0.03
    stochastic: ClassVar[bool] = True

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        return x + self.noise * rng.normal_like(x)


# Closed forms


@pytest.mark.parametrize("purifier", [Identity(), Negative()], ids=str)
@pytest.mark.parametrize("loss", sorted(LOSSES))
@pytest.mark.parametrize("norm", NORMS)
def test_every_loss_leads_to_the_nearest_boundary(norm, loss, purifier):
    distance = 0.04
    defense, x, y = linear_problem(purifier, norm, classes=5, side=2, distance=distance)
    view = view_of(defense, Access.FULL)
    for factor, stands in ((1.02, False), (0.98, True)):
        threat = ball(norm, round(factor * distance, 6), Access.FULL)
        x_adv = Apgd(loss=loss)(view, x, y, threat=threat, rng=streams(8))
        verdict = judge(defense, x, y, x_adv, threat=threat, draws=1, rng=streams(8))
        assert bool(verdict.legal.all())
        assert verdict.robust.tolist() == [stands] * 8


@pytest.mark.parametrize("loss", sorted(LOSSES))
@pytest.mark.parametrize("norm", NORMS)
def test_behind_noise_it_comes_as_near_the_optimum(norm, loss):
    distance, radius = 0.04, 0.044
    defense, x, y = linear_problem(Hazy(0.0), norm, classes=5, side=2, distance=distance)
    defense.purifier.noise = 0.03
    view, threat = view_of(defense, Access.FULL), ball(norm, radius, Access.FULL)
    x_adv = Apgd(loss=loss, eot=20)(view, x, y, threat=threat, rng=streams(8))
    # The margin of a linear classifier falls linearly, to 0 at the distance.
    clean, reached = (margin(defense.classify(images), y) for images in (x, x_adv))
    gained = (reached - clean) / (-clean * radius / distance)
    assert float(gained.min()) > 0.97
    assert float(gained.max()) < 1 + 1e-3


@pytest.mark.parametrize("norm", NORMS)
def test_breaks_what_pgd_breaks_in_as_many_steps(norm):
    defense, x, y = small_problem(Identity(), images=64)
    view = view_of(defense, Access.FULL)
    broken = []
    for eps in (0.02, 0.04, 0.08) if norm is Norm.LINF else (0.06, 0.12, 0.24):
        threat = ball(norm, eps, Access.FULL)
        counts = [
            int(misses(defense, attack(view, x, y, threat=threat, rng=streams(64)), y).sum())
            for attack in (Apgd(steps=20, eot=1), Pgd(steps=20, eot=1))
        ]
        assert counts[0] >= counts[1]
        broken += counts
    assert 0 < min(broken) < max(broken) <= 64


# The algorithm


def plain(net, x, y, start, *, norm, eps, steps, loss):
    """Auto-PGD on one image (C, H, W), as its paper has it; returns all points it asks of."""

    def look(at):
        leaf = at.clone().requires_grad_()
        value = loss(net(leaf[None]), y[None])[0]
        (slope,) = torch.autograd.grad(value, leaf)
        return float(
            value.detach()
        ), slope.sign() if norm is Norm.LINF else slope / slope.norm()

    def inside(at):
        delta = at - x
        if norm is Norm.LINF:
            return (x + delta.clamp(-eps, eps)).clamp(0, 1)
        share = min(1.0, eps / float(delta.norm()))
        for _ in range(3):  # what the box cuts off is given back
            share = min(1.0, share * eps / float(((x + share * delta).clamp(0, 1) - x).norm()))
        return (x + share * delta).clamp(0, 1)

    points, values, (value, way) = [start], [], look(start)
    values.append(value)
    step, point, last = 2 * eps, start, start
    top, top_value, top_way = start, value, way
    window, since, then, halved = int(0.22 * steps), 0, value, True
    for k in range(steps):
        aim = inside(point + step * way)
        share = 0.75 if k else 1.0
        last, point = (
            point,
            inside(point + share * (aim - point) + (1 - share) * (point - last)),
        )
        value, way = look(point)
        points.append(point)
        values.append(value)
        if value > top_value:
            top, top_value, top_way = point, value, way
        since += 1
        if since == window:
            rises = sum(values[i + 1] > values[i] for i in range(k + 1 - window, k + 1))
            halved = rises <= 0.75 * window or (not halved and top_value == then)
            if halved:
                step, point, way = step / 2, top, top_way
            then, since = top_value, 0
            window = max(window - int(0.03 * steps), int(0.06 * steps))
    return torch.stack(points), top


@pytest.mark.parametrize("loss", ["ce", "margin"])
@pytest.mark.parametrize("norm", NORMS)
def test_takes_the_steps_of_a_plain_loop(norm, loss):
    defense, x, y = firm_problem(Identity(), 4)
    eps = 0.01 if norm is Norm.LINF else 0.03  # too small to break: none leaves the batch
    threat, rng = ball(norm, eps, Access.FULL), streams(4)
    view = Recorder(view_of(defense, Access.FULL))
    x_adv = Apgd(loss=loss, eot=1)(view, x, y, threat=threat, rng=rng)
    assert not bool(misses(defense, x_adv, y).any())
    start = random_point(x, threat, rng.fork("apgd", 0).fork("start"))
    for i in range(4):
        points, top = plain(
            defense.classifier, x[i], y[i], start[i],
            norm=norm, eps=eps, steps=100, loss=LOSSES[loss],
        )  # fmt: skip
        seen = torch.stack([batch[i] for batch in view.seen])
        torch.testing.assert_close(seen, points, rtol=0, atol=1e-6)
        torch.testing.assert_close(x_adv[i], top, rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_takes_the_steps_of_its_authors(norm):
    defense, x, y = firm_problem(Identity(), 4)
    eps = 0.01 if norm is Norm.LINF else 0.03
    threat, view = ball(norm, eps, Access.FULL), Recorder(view_of(defense, Access.FULL))
    start = x + 0.3 * (random_point(x, threat, streams(4)) - x)  # so that the first step rises
    Apgd(eot=1)(view, x, y, threat=threat, rng=streams(4), start=start)
    asked = []

    def model(images: Tensor) -> Tensor:
        asked.append(images.detach().clone())
        return defense.classify(images)

    theirs = pyautoattack.autopgd_base.APGDAttack(
        model, n_iter=100, norm=norm.value, eps=eps, loss="ce", device=x.device
    )
    theirs.init_hyperparam(x)
    with torch.random.fork_rng():
        theirs.attack_single_run(x, y, x_init=start)
    torch.testing.assert_close(torch.stack(view.seen), torch.stack(asked), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (1, [1]),
        (20, [4, 7, *range(9, 21)]),
        (50, [11, 21, 30, 38, 45]),
        (100, [22, 41, 57, 70, 80, 87, 93, 99]),  # at 100 steps, the paper's as well
    ],
)
def test_checkpoints_are_those_of_the_authors_code(steps, expected):
    windows = checkpoints(steps)
    assert list(windows) == expected
    assert list(windows.values()) == [b - a for a, b in pairwise([0, *expected])]


@pytest.mark.parametrize("steps", [1, 7, 20, 33, 50, 75, 100, 130])
def test_the_authors_code_judges_its_steps_at_the_same_checkpoints(steps, monkeypatch):
    defense, x, y = small_problem(Identity(), images=2, dtype=torch.float32)
    judged = {}

    def judge_steps(self, losses, step, window, *_, **__):
        judged[step + 1] = window
        return torch.zeros(2)

    library = pyautoattack.autopgd_base.APGDAttack
    monkeypatch.setattr(library, "check_oscillation", judge_steps)
    theirs = library(defense.classifier, n_iter=steps, eps=0.01, loss="ce", device=x.device)
    theirs.init_hyperparam(x)
    with torch.random.fork_rng():
        theirs.attack_single_run(x, y, x_init=x)
    assert judged == checkpoints(steps)


@pytest.mark.parametrize(
    ("rises", "halved_before", "gained", "halves"),
    [
        (15, False, 1.0, True),  # of 20 steps three quarters rose: that is no more than rho
        (16, False, 1.0, False),
        (16, False, 0.0, True),  # many rises and nothing gained since the last checkpoint
        (16, True, 0.0, False),  # but there it was halved, and has yet to show its worth
        (15, True, 0.0, True),
    ],
)
def test_when_a_step_is_halved(rises, halved_before, gained, halves):
    x = torch.zeros(1, 1, 2, 2, dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    ascent = replace(
        Ascent.begin(x, eta=0.4),
        x_max=x + 1,
        gradient_max=x + 2,
        f_max=5 * one,
        f_max_then=(5 - gained) * one,
        rises=rises * one,
        halved=torch.tensor([halved_before]),
    ).checked(20)
    assert ascent.halved.tolist() == [halves]
    assert ascent.eta.tolist() == [0.2 if halves else 0.4]
    assert torch.equal(ascent.x, x + 1 if halves else x)
    assert torch.equal(ascent.gradient, x + 2 if halves else x)
    assert (ascent.rises.tolist(), ascent.f_max_then.tolist()) == ([0.0], [5.0])


def test_an_infinite_gradient_is_forgotten_with_its_iterate():
    x = torch.full((2, 1, 1, 2), 0.5)
    ascent = Ascent.begin(x, eta=0.1)

    def seen(loss, pixel):
        gradient = torch.ones_like(x)
        gradient[:, 0, 0, 0] = pixel
        return AveragedGradient(torch.tensor([loss, loss]), torch.zeros(2), gradient)

    for loss, pixel in ((1.0, 2.0), (0.5, torch.inf), (0.2, torch.nan), (3.0, 4.0)):
        ascent = ascent.evaluated(seen(loss, pixel))
    assert ascent.gradient_max[0].flatten().tolist() == [4.0, 1.0]
    ascent = replace(ascent.evaluated(seen(0.1, torch.inf)), rises=torch.tensor([9.0, 0.0]))
    ascent = ascent.checked(10)
    assert ascent.halved.tolist() == [False, True]
    assert ascent.gradient[:, 0, 0, 0].tolist() == [torch.inf, 4.0]


def test_images_that_are_done_leave_and_change_nothing_for_the_others(monkeypatch):
    defense, x, y = small_problem(Pull(), images=24)
    threat = ball(Norm.LINF, 0.1, Access.BPDA)
    results, rows = [], []
    for leave in (1, 10, 10_000):
        monkeypatch.setattr(bench_attacks.apgd, "_LEAVE", leave)
        view = Recorder(view_of(defense, Access.BPDA))
        results.append(Apgd(steps=30, eot=4)(view, x, y, threat=threat, rng=streams(24)))
        rows.append(sum(len(seen) for seen in view.seen))
    assert rows[0] < rows[1] < rows[2] == 24 * 4 * 31
    view = view_of(defense, Access.BPDA)
    seen = averaged_loss(view, results[1], y, loss=margin, draws=50, rng=streams(24, 5))
    stay = seen.wrong < 0.5
    assert 0 < int(stay.sum()) < 24
    for result in results[:2]:
        torch.testing.assert_close(result[stay], results[2][stay], rtol=0, atol=1e-12)


def test_all_of_an_image_is_averaged_over_the_draws():
    defense, x, y = small_problem(Pull())
    view = Recorder(view_of(defense, Access.BPDA))
    threat = ball(Norm.LINF, 0.001, Access.BPDA)
    Apgd(steps=9, eot=3)(view, x, y, threat=threat, rng=streams(8))
    assert [len(seen) for seen in view.seen] == [8 * 3] * 10


def test_restarts_never_hurt():
    defense, x, y = small_problem(Identity())
    view, threat = view_of(defense, Access.FULL), ball(Norm.L2, 0.2, Access.FULL)
    results = [
        Apgd(steps=2, restarts=restarts, loss="margin")(
            view, x, y, threat=threat, rng=streams(8)
        )
        for restarts in (1, 6)
    ]
    one, six = (margin(defense.classify(x_adv), y) for x_adv in results)
    undone = one <= 0
    assert bool((six >= one)[undone].all())
    assert bool((six > one).any())


# Warm starts


class Trap(nn.Module):
    """Brighter images rise towards the other class in vain; it lies behind a cliff of dark."""

    def forward(self, x: Tensor) -> Tensor:
        brighter = x.flatten(1).mean(1) - 0.5
        cliff = (-1000 * (brighter + 0.04)).sigmoid()
        return torch.stack((1 - brighter, 3 * cliff), dim=1)


def test_what_the_start_breaks_comes_back_broken():
    defense = Defense(Identity(), Trap())
    x, y = torch.full((8, 1, 4, 4), 0.5, dtype=torch.float64), torch.zeros(8, dtype=torch.int64)
    view, threat = view_of(defense, Access.FULL), ball(Norm.LINF, 0.05, Access.FULL)
    start, weak = x.clone(), Apgd(steps=1)
    start[::2] -= 0.048
    assert isinstance(weak, WarmAttack)
    assert not isinstance(Pgd(), WarmAttack)
    cold, warm = (
        misses(defense, weak(view, x, y, threat=threat, rng=streams(8), start=begin), y)
        for begin in (None, start)
    )
    assert cold.tolist() == [False] * 8
    assert warm.tolist() == [True, False] * 4


@pytest.mark.parametrize("norm", NORMS)
def test_a_start_outside_is_projected_and_the_first_run_alone_takes_it(norm):
    defense, x, y = firm_problem(Identity(), 8)
    warm, cold = (Recorder(view_of(defense, Access.FULL)) for _ in range(2))
    threat, attack = ball(norm, 0.03, Access.FULL), Apgd(steps=1, restarts=2)
    start = x + torch.linspace(-3, 3, 16, dtype=x.dtype).reshape(1, 4, 4)
    x_adv = attack(warm, x, y, threat=threat, rng=streams(8), start=start)
    attack(cold, x, y, threat=threat, rng=streams(8))
    expected = project(start, x, norm, 0.03)
    assert torch.equal(warm.seen[0], expected)
    assert not torch.equal(cold.seen[0], expected)
    assert torch.equal(warm.seen[2], cold.seen[2])
    assert not torch.equal(cold.seen[2], cold.seen[0])
    for images in (*warm.seen, x_adv):
        assert float(size(images - x, norm).max()) <= 0.03 + 1e-9
        assert 0 <= float(images.min()) < float(images.max()) <= 1


def test_propose_hands_the_start_only_to_warm_attacks(tmp_path):
    defense, x, y = small_problem(Identity(), dtype=torch.float32)
    threat, images = ball(Norm.LINF, 0.03, Access.FULL), Images(torch.arange(8), x, y)
    rest = {"threat": threat, "seed": 0, "networks": {"classifier": defense.classifier}}
    view, start = Recorder(view_of(defense, Access.FULL)), x + 0.01
    propose(Apgd(steps=1), view, images, **rest, path=tmp_path / "warm", start=start)
    assert torch.allclose(view.seen[0], start.clamp(0, 1), atol=1e-7)
    propose(Apgd(steps=1), view, images, **rest, path=tmp_path / "cold")
    assert not torch.allclose(view.seen[2], start.clamp(0, 1), atol=1e-7)
    with pytest.raises(PluginError, match="Pgd cannot begin at another attack's images"):
        propose(Pgd(steps=1), view, images, **rest, path=tmp_path / "no", start=start)

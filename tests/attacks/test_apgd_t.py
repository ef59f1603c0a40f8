"""Targeted Auto-PGD: the nearest of all classes, and as many draws as the gradient needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import pytest
import torch
from attack_toys import Identity, Recorder, ball, linear_problem, small_problem, streams
from torch import Tensor

from bench.api import (
    Access,
    Averaged,
    AveragedGradient,
    Norm,
    Rng,
    Towards,
    averaged_gradient,
)
from bench.calibration.gaps import CASES, measure
from bench.core.access import view_of
from bench.evaluation.judge import judge
from bench_attacks.apgd import Apgd
from bench_attacks.apgd_t import _CHECK, ApgdT, _hopeful, _rank, _upper_third, _wanted

NORMS = list(Norm)
(ALIKE,) = (case for case in CASES if not case.clear)


@dataclass(frozen=True)
class Turning:
    """Two logits whose gradient is w plus noise of ``spread`` per pixel at every draw."""

    w: Tensor
    spread: float
    access: ClassVar[Access] = Access.FULL
    stochastic: ClassVar[bool] = True
    rows: list[int] = field(default_factory=list)

    def __call__(self, x: Tensor, *, rng: Rng) -> Tensor:
        if x.requires_grad:
            self.rows.append(len(rng) // len(x))
        rows = x.repeat_interleave(len(rng) // len(x), dim=0).flatten(1)
        slope = self.w + self.spread * rng.normal_like(rows)
        other = (rows * slope).sum(1) - 1e6  # never reached
        return torch.stack([torch.zeros_like(other), other], dim=1)


@dataclass(frozen=True)
class Four:
    """The four pixels are the logits."""

    access: ClassVar[Access] = Access.FULL
    stochastic: ClassVar[bool] = True

    def __call__(self, x: Tensor, *, rng: Rng) -> Tensor:
        return x.flatten(1).repeat_interleave(len(rng) // len(x), dim=0)


@pytest.mark.parametrize("norm", NORMS)
def test_it_finds_the_nearest_boundary(norm):
    distance = 0.04
    defense, x, y = linear_problem(Identity(), norm, classes=5, side=2, distance=distance)
    view = view_of(defense, Access.FULL)
    for factor, stands in ((1.02, False), (0.98, True)):
        threat = ball(norm, round(factor * distance, 6), Access.FULL)
        x_adv = ApgdT()(view, x, y, threat=threat, rng=streams(8))
        verdict = judge(defense, x, y, x_adv, threat=threat, draws=1, rng=streams(8))
        assert bool(verdict.legal.all())
        assert verdict.robust.tolist() == [stands] * 8


@pytest.mark.parametrize("norm", NORMS)
def test_where_rivals_are_alike_it_finds_what_one_ascent_misses(norm):
    gaps = [
        measure(name, attack, ALIKE, Access.FULL, norm, images=100).gap
        for name, attack in (("apgd", Apgd()), ("apgd_t", ApgdT()))
    ]
    assert gaps[0] > 1
    assert gaps[1] <= 1


def test_the_norm_test_in_numbers():
    mean = torch.tensor([3.0, 4.0]).reshape(1, 1, 1, 2)  # of length 5
    off = torch.tensor([-4.0, 3.0]).reshape(1, 1, 1, 2)  # of length 5, across
    for draws, error, wanted in (
        (1, 0.0, 1),
        (1, 0.2, 1),  # 2 (.04 / .96) / .25 = .33
        (2, 0.5, 4),  # 2 (.25 / .75) / .25 = 2.7
        (8, 0.4, 8),
        (8, 0.1, 1),  # .32: fewer again
        (8, 1.0, 16),  # as much noise as there is: 16 are the most
        (8, 5.0, 16),
    ):
        one, other = with_gradient(mean + error * off), with_gradient(mean - error * off)
        found = _wanted(one, other, torch.tensor([draws]), most=16)
        assert found.tolist() == [wanted], (draws, error)


def with_gradient(gradient):
    nothing = torch.zeros(len(gradient))
    return AveragedGradient(nothing, nothing, gradient)


@pytest.mark.parametrize("value", [0.0, torch.nan])
def test_no_gradient_wants_all_draws(value):
    nothing = with_gradient(torch.full((2, 1, 2, 2), value))
    assert _wanted(nothing, nothing, torch.tensor([2, 8]), most=16).tolist() == [16, 16]


@pytest.mark.parametrize(("spread", "least", "most"), [(0.01, 1, 1), (0.5, 2, 8), (4.0, 8, 16)])
def test_draws_are_as_many_as_the_gradient_needs(spread, least, most):
    x, y = torch.full((3, 1, 16, 16), 0.5), torch.zeros(3, dtype=torch.long)
    view = Turning(torch.full((256,), 0.5), spread)  # 4 draws where spread = .5, by an estimate
    attack = ApgdT(steps=2 * _CHECK, eot=16)
    attack(view, x, y, threat=ball(Norm.LINF, 0.1, Access.FULL), rng=streams(3))
    first, rest = view.rows[:2], view.rows[2:]
    assert first == [1, 1]  # two halves
    assert (min(rest), max(rest)) == (least, most)


def test_images_that_are_broken_leave_with_all_their_targets():
    defense, x, y = small_problem(Identity(), images=16)
    view = Recorder(view_of(defense, Access.FULL))
    threat = ball(Norm.LINF, 0.5, Access.FULL)  # everything breaks
    ApgdT(steps=50)(view, x, y, threat=threat, rng=streams(16))
    assert len(view.seen) < 1 + 20, "ten steps were enough"


def test_the_third_of_the_targets_with_most_loss_goes_on():
    image = torch.tensor([0, 0, 0, 0, 2, 2, 2, 5])
    loss = torch.tensor([1.0, 3.0, 2.0, -1.0, torch.nan, -1.0, -2.0, -7.0])
    assert _rank(image, loss).tolist() == [2, 0, 1, 3, 2, 0, 1, 0]
    goes_on = [False, True, True, False, False, True, False, True]
    assert _upper_third(image, loss).tolist() == goes_on


def test_of_the_targets_that_a_draw_mistakes_one_is_voted_on():
    image, loss = torch.tensor([0, 0, 1, 1, 2]), torch.tensor([1.0, 3.0, 2.0, 5.0, 9.0])
    wrong = torch.tensor([1.0, 1.0, 0.5, 0.0, 0.0])
    assert _hopeful(image, Averaged(loss, wrong)).tolist() == [1, 2]


@pytest.mark.parametrize("draws", [1, 3])
def test_targets_stay_with_their_images_in_every_block(draws):
    images = 300  # more than one block of passes has rows
    x, y = torch.rand(images, 1, 2, 2), torch.zeros(images, dtype=torch.long)
    target = torch.randint(1, 4, (images,))
    view = Four()
    one = averaged_gradient(view, x, y, loss=Towards(target), draws=draws, rng=streams(images))
    alone = torch.cat(
        [
            averaged_gradient(
                view, x[i : i + 1], y[i : i + 1], loss=Towards(target[i : i + 1]), draws=draws,
                rng=streams(images)[torch.tensor([i])],
            ).gradient
            for i in range(images)
        ]
    )  # fmt: skip
    assert torch.equal(one.gradient, alone)


@pytest.mark.parametrize("classes", [2, 5])
def test_more_targets_than_other_classes_are_all_of_them(classes):
    defense, x, y = small_problem(Identity(), classes=classes)
    view, threat = view_of(defense, Access.FULL), ball(Norm.LINF, 0.03, Access.FULL)
    found = [
        ApgdT(targets=targets, steps=5)(view, x, y, threat=threat, rng=streams(8))
        for targets in (classes - 1, 50)
    ]
    assert torch.equal(*found)
    calls = [ApgdT(targets=many).calls(stochastic=True, classes=classes) for many in (9, 50)]
    assert calls[0] == calls[1]

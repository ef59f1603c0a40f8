"""A defense that knows one ball alone fails; one that knows all passes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.audit import unseen_attacks
from bench.audit.findings import State
from bench.audit.subject import Subject
from bench.audit.unseen_attacks import (
    Transfer,
    matching_radius,
    not_fitted_to_one_attack,
    others,
    trained_against,
)
from bench.core.rng import Rng
from bench.core.threat import Access, Norm
from bench.plugins.catalogue import build, parameters

Make = Callable[..., Subject]


class Lookup:
    """Gives an image's clean one back where that is within ``reach`` in L2."""

    stochastic = False
    differentiable = False

    def __init__(self, reach: float) -> None:
        self.reach = reach
        self.known = torch.empty(0)

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        clean = self.known[rng._images]
        near = (x - clean).flatten(1).norm(dim=1) <= self.reach
        return torch.where(near.reshape(-1, 1, 1, 1), clean, x)


def trained(make: Make, purifier: Lookup, *, n: int = 16) -> Subject:
    subject = make(purifier, norm=Norm.L2, eps=Fraction(1), n=n, name=f"reach {purifier.reach}")
    part = subject.base.cell.defense
    params = {"training": {"norm": "L2", "eps": "1", "share": 0.25}}
    cell = replace(subject.base.cell, defense=replace(part, params=params))
    subject = replace(subject, base=replace(subject.base, cell=cell))
    purifier.known = subject.images.x
    return subject


def test_not_fitted_to_one_attack(make_subject: Make) -> None:
    passed = not_fitted_to_one_attack(trained(make_subject, Lookup(math.inf)))
    assert passed.state is State.PASS
    assert passed.values["trained"] > 0.8

    failed = not_fitted_to_one_attack(trained(make_subject, Lookup(1.001)))
    assert failed.state is State.FAIL
    assert failed.values["trained"] == passed.values["trained"]
    assert "apgd Linf 0.5" in failed.reason
    assert "autoattack L2 2" in failed.reason
    assert " pgd" not in failed.reason
    assert "pgd L2 1" in failed.figure


def test_a_fall_of_few_images_is_a_warning(make_subject: Make) -> None:
    subject = trained(make_subject, Lookup(1.001), n=5)
    warned = not_fitted_to_one_attack(subject)
    assert warned.state is State.WARN
    assert "autoattack L2 2" in warned.reason


def test_it_applies_to_defenses_that_saw_attacks(make_subject: Make) -> None:
    plain = not_fitted_to_one_attack(make_subject())
    assert (plain.state, plain.reason) == (
        State.NOT_APPLICABLE,
        "the defense was trained on no attack",
    )


class Hole(Lookup):
    """Ruins what is moved a little, which the bare classifier withstands."""

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        moved = (x - self.known[rng._images]).flatten(1).norm(dim=1)
        little = ((moved > 0.1) & (moved < 0.5)).reshape(-1, 1, 1, 1)
        return torch.where(little, 0.0, super().purify(x, rng=rng))


def test_what_the_bare_classifier_withstands_says_nothing_of_the_purifier(
    make_subject: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = trained(make_subject, Hole(math.inf))
    weak = Transfer(Norm.LINF, Fraction(1, 25), "pgd", {"steps": 5})
    monkeypatch.setattr(unseen_attacks, "others", lambda trained, numbers: [weak])
    one = not_fitted_to_one_attack(subject)
    assert one.state is State.PASS
    assert one.values[str(weak)] < one.values["trained"] - 0.5
    assert "(not compared: the bare classifier keeps" in one.figure

    monkeypatch.setattr(unseen_attacks, "trained_against", lambda params: weak)
    none = not_fitted_to_one_attack(subject)
    assert none.state is State.NOT_APPLICABLE
    assert f"keeps {one.values[f'{weak}, bare']:.1%} under the trained attack" in none.reason


def test_the_bare_classifier_is_judged_as_if_attacked_by_itself(make_subject: Make) -> None:
    subject = trained(make_subject, Lookup(math.inf))
    by = Transfer(Norm.LINF, Fraction(1, 10))
    _, left = unseen_attacks._attacked(subject, by)
    alone = subject.run(
        by.attack, Access.TRANSFER, norm=by.norm, eps=by.eps, variant=subject.bare
    )
    assert 0 < left < 1
    assert left == pytest.approx(alone.accuracy)


def test_the_attack_is_read_off_the_parameters_that_ship() -> None:
    plugin: Any = build("defenses", "adv_ebm", {"training": {"eps": "8/255"}})
    assert trained_against(parameters(plugin)) == Transfer(Norm.LINF, Fraction(8, 255))
    assert trained_against({"training": {"eps": "8/255", "share": 0.0}}) is None
    assert trained_against({"training": {"eps": "0"}}) is None
    assert trained_against({"training": {"norm": "L2", "eps": "inf"}}) is None
    assert trained_against(parameters(build("defenses", "ebm", {}))) is None
    control: Any = {"training": {"eps": "8/255", "share": 0.25, "negatives": "random_sign"}}
    assert trained_against(control) is None
    control["training"]["negatives"] = "other_classifier"
    assert trained_against(control) == Transfer(Norm.LINF, Fraction(8, 255))
    assert trained_against({}) is None


@pytest.mark.parametrize(
    ("linf", "l2", "numbers"),
    [("3/10", "2.1", 784), ("8/255", "0.43", 3072)],
)
def test_matching_radii_are_the_conventional_ones(linf: str, l2: str, numbers: int) -> None:
    found = matching_radius(Fraction(linf), Norm.LINF, numbers=numbers)
    assert found == Fraction(l2)
    back = matching_radius(found, Norm.L2, numbers=numbers)
    assert float(back) == pytest.approx(float(Fraction(linf)), rel=0.02)


def test_the_other_attacks() -> None:
    small = others(Transfer(Norm.LINF, Fraction(8, 255)), numbers=3072)
    assert [str(other) for other in small] == [
        "apgd L2 0.43",
        "autoattack Linf 16/255",
        "pgd Linf 8/255",
    ]
    large = others(Transfer(Norm.LINF, Fraction(3, 10)), numbers=784)
    assert [str(other) for other in large] == ["apgd L2 2.1", "pgd Linf 0.3"]
    assert dict(large[1].settings) == {"steps": 100, "loss": "margin"}
    assert others(Transfer(Norm.L2, Fraction(900)), numbers=64)[0].eps == 1


def test_a_run_may_be_in_another_ball(make_subject: Make) -> None:
    subject = make_subject(n=4)
    run = subject.run("pgd", Access.TRANSFER, {"steps": 2}, norm=Norm.L2, eps=Fraction(1, 10))
    distances = (run.x_adv - subject.images.x).flatten(1).norm(dim=1)
    assert bool((distances <= 0.1 + 1e-6).all())
    assert float(distances.max()) > 0.09

"""What holds for every registered attack: legal, deterministic, no side effects, row by row."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch
from attack_toys import (
    ATTACKS,
    Identity,
    Pull,
    ball,
    fast,
    run,
    small_problem,
    streams,
    variants,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from bench.api import Access, Norm
from bench.core.access import view_of
from bench.evaluation.judge import judge
from bench.testing import outcome
from bench.testing.attacks import ATTACKS as CONTRACT
from bench.testing.attacks import (
    AttackSubject,
    CountingView,
    chance_comes_from_rng,
    leaves_what_it_is_given,
    same_streams_give_the_same,
)
from bench.testing.check import results_of

OWN = [name for name in sorted(ATTACKS) if name != "autoattack"]
ROWWISE = variants(*OWN)


@pytest.mark.parametrize("name", OWN)
def test_the_contract_of_every_attack(name):
    """What `bench check` looks at, with small budgets."""
    results = list(results_of("attacks", fast(name)))
    assert {one.check: one.sentence for one in results if one.state == "fails"} == {}


REPEATED = [
    check for check in CONTRACT
    if check.run in (leaves_what_it_is_given, same_streams_give_the_same, chance_comes_from_rng)
]  # fmt: skip


# AutoAttack costs seconds a run: one variant here, its own tests see more.
@pytest.mark.usefixtures("short_autoattack")
@pytest.mark.parametrize(
    ("name", "norm", "access"), [*ROWWISE, ("autoattack", Norm.LINF, Access.BPDA)]
)
def test_twice_the_same_and_no_side_effects_in_every_norm_and_access(name, norm, access):
    subject = AttackSubject(name, fast(name), norm, access)
    assert [outcome.run(check, subject).sentence for check in REPEATED] == ["", "", ""]


@pytest.mark.parametrize(
    ("name", "norm"), [(name, norm) for name in OWN for norm in ATTACKS[name].norms]
)
@settings(max_examples=8, deadline=None, derandomize=True)
@given(eps=st.integers(0, 1000).map(lambda n: n / 1000))
@example(eps=0.0)
@example(eps=1.0)
def test_legal_at_any_radius(name, norm, eps):
    check_legal(name, norm, eps, Pull())


@pytest.mark.usefixtures("short_autoattack")
@pytest.mark.parametrize("norm", list(Norm))
@pytest.mark.parametrize("eps", [0.0, 1.0])
def test_autoattack_is_legal(norm, eps):
    check_legal("autoattack", norm, eps, Identity())


def check_legal(name, norm, eps, purifier):
    access = ATTACKS[name].accesses[0]
    defense, x, y = small_problem(purifier, images=3, side=2, classes=2, dtype=torch.float32)
    threat = ball(norm, eps, access)
    x_adv = run(fast(name), view_of(defense, access), x, y, threat, streams(3))
    verdict = judge(defense, x, y, x_adv, threat=threat, draws=1, rng=streams(3))
    assert bool(verdict.legal.all())


@pytest.mark.parametrize(("name", "norm", "access"), ROWWISE)
def test_one_image_alone_as_in_its_batch(name, norm, access):
    defense, x, y = small_problem(Pull())
    view, threat, rng = view_of(defense, access), ball(norm, 0.1, access), streams(8)
    whole = run(fast(name), view, x, y, threat, rng)
    some = [0, 4, 7]
    alone = [
        run(fast(name), view, x[i : i + 1], y[i : i + 1], threat, rng[i : i + 1]) for i in some
    ]
    torch.testing.assert_close(torch.cat(alone), whole[some], rtol=0, atol=1e-12)
    order = torch.tensor([3, 1, 7, 0, 2, 6, 5, 4])
    shuffled = run(fast(name), view, x[order], y[order], threat, rng[order])
    torch.testing.assert_close(shuffled, whole[order], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("name", "norm", "access"), ROWWISE)
def test_another_seed_is_another_attack(name, norm, access):
    defense, x, y = small_problem(Pull())
    view, threat = view_of(defense, access), ball(norm, 0.1, access)
    one, other = (run(fast(name), view, x, y, threat, streams(8, seed)) for seed in (0, 1))
    assert not torch.equal(one, other)


@pytest.mark.parametrize("norm", list(Norm))
@pytest.mark.parametrize("name", [name for name in OWN if ATTACKS[name].unbounded])
def test_without_a_bound_every_image_falls(name, norm):
    access = Access.BPDA
    defense, x, y = small_problem(Pull())
    threat = ball(norm, None, access)
    x_adv = run(ATTACKS[name](), view_of(defense, access), x, y, threat, streams(8))
    verdict = judge(defense, x, y, x_adv, threat=threat, draws=20, rng=streams(8, 9))
    assert int(verdict.clean.sum()) >= 4
    assert not bool(verdict.robust.any())


WITH_TARGETS = ("pgd", "apgd", "bpda_eot", "adaptive")
OWN_COSTS = [
    ("pgd", {"steps": 12, "eot": 3, "restarts": 2}),
    ("apgd", {"steps": 12, "eot": 3, "restarts": 2}),
    ("bpda_eot", {"steps": 12, "eot": 3}),
    ("adaptive", {"steps": 21, "eot": 3}),
    ("adaptive", {"steps": 20, "eot": 3, "through": "defense"}),
    *((name, {"steps": 12, "eot": 3, "targets": 2}) for name in WITH_TARGETS),
    ("pgd", {"steps": 5, "eot": 3, "targets": 99}),
    ("noise", {"tries": 12, "eot": 3}),
    ("square", {"queries": 60, "eot": 3}),
]  # of rays, only while its votes are open


@pytest.mark.parametrize(
    ("name", "params", "noise", "classes"),
    [
        *((*cost, noise, 4) for cost in OWN_COSTS for noise in (0.0, 0.001)),
        ("autoattack", {}, 0.0, 3),
        ("autoattack", {}, 0.001, 2),
    ],
    ids=str,
)
def test_an_image_that_never_falls_costs_what_calls_says(name, params, noise, classes):
    access = Access.BPDA if Access.BPDA in ATTACKS[name].accesses else Access.QUERY
    purifier = Pull(noise=noise, steps=1)
    defense, x, y = small_problem(
        purifier, images=1, side=2, classes=classes, dtype=torch.float32
    )
    view, attack = CountingView(view_of(defense, access)), ATTACKS[name](**params)
    run(attack, view, x, y, ball(Norm.LINF, 0.0, access), streams(1))
    promised = attack.calls(stochastic=defense.stochastic, classes=classes)
    assert view.counts == asdict(promised)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("pgd", {"steps": 0}),
        ("pgd", {"loss": "hinge"}),
        ("pgd", {"step_size": 0.0}),
        ("apgd", {"surrogate": 1}),
        ("bpda_eot", {"eot": 0}),
        ("adaptive", {"lam": -1.0}),
        ("adaptive", {"form": "other"}),
        ("noise", {"tries": 0}),
        ("rays", {"eot": 0}),
        ("square", {"p_init": 1.5}),
        ("autoattack", {"version": "plus"}),
    ],
)
def test_bad_parameters_are_refused(name, params):
    with pytest.raises(ValidationError, match=next(iter(params))):
        TypeAdapter(ATTACKS[name]).validate_python(params)

"""Every registered attack against linear defenses whose nearest boundary is known."""

from __future__ import annotations

import pytest
import torch
from attack_toys import (
    ATTACKS,
    Identity,
    Negative,
    ball,
    linear_problem,
    run,
    streams,
    variants,
)

from bench.api import Access, Defense, Norm
from bench.core.access import view_of
from bench.evaluation.judge import judge
from bench_attacks.square import bump

# In four dimensions a random direction is seldom near the right one: it takes more tries.
PARAMS = {
    ("noise", Identity): {"tries": 400},
    ("noise", Negative): {"tries": 400},
    ("rays", Identity): {"queries": 100},
    ("rays", Negative): {"queries": 100},
    ("square", Identity): {"queries": 400},
    ("square", Negative): {"queries": 400},
    # Its gradient at the bare classifier holds only where a purifier stays near its input.
    ("adaptive", Negative): {"through": "defense", "lam": 0.0},
}
# Square's L2 patterns cannot form every direction, so it stops short of the optimum: measured,
# the authors' own needs three times the distance on these images.
REACH = {("square", Norm.L2): 2.0}
SIDE = {("square", Norm.L2): 6}
CASES = [(*variant, Identity()) for variant in variants()] + [
    (*variant, Negative())
    for variant in variants()
    if variant[2] in {Access.FULL, Access.QUERY, Access.LABEL}
]


def robust(name, norm, access, purifier, *, classes, side, distance, factor):
    defense, x, y = linear_problem(
        purifier, norm, classes=classes, side=side, distance=distance
    )
    threat = ball(norm, round(factor * distance, 6), access)
    attack = ATTACKS[name](**PARAMS.get((name, type(purifier)), {}))
    rng = streams(len(x))
    x_adv = run(attack, view_of(defense, access), x, y, threat, rng.fork("attack"))
    verdict = judge(defense, x, y, x_adv, threat=threat, draws=1, rng=rng.fork("judge"))
    assert bool(verdict.legal.all())
    assert bool(verdict.clean.all())
    return verdict.robust.tolist()


@pytest.mark.usefixtures("short_autoattack")
@pytest.mark.parametrize(("name", "norm", "access", "purifier"), CASES, ids=str)
def test_breaks_beyond_the_nearest_boundary_and_never_before(name, norm, access, purifier):
    side = SIDE.get((name, norm), 2)
    problem = {"classes": 5, "side": side, "distance": 0.04}
    reach = REACH.get((name, norm), 1.1)
    assert not any(robust(name, norm, access, purifier, **problem, factor=reach))
    assert all(robust(name, norm, access, purifier, **problem, factor=0.9))


@pytest.mark.usefixtures("short_autoattack")
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("norm", list(Norm))
def test_autoattack_with_few_classes(norm, classes):
    problem = {"classes": classes, "side": 2, "distance": 0.04}
    case = ("autoattack", norm, Access.TRANSFER, Identity())
    assert not any(robust(*case, **problem, factor=1.1))
    assert all(robust(*case, **problem, factor=0.9))


@pytest.mark.parametrize("access", [Access.QUERY, Access.TRANSFER])
def test_square_in_l2_is_optimal_in_a_direction_that_its_patterns_form(access):
    distance, pattern = 0.04, bump(3, torch.zeros(1)).flatten()
    layer = torch.nn.Linear(9, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.stack((30 * pattern, -30 * pattern)))
        layer.bias.copy_(30 * (distance - 0.5 * pattern.sum()) * torch.tensor([1.0, -1.0]))
    defense = Defense(Identity(), torch.nn.Sequential(torch.nn.Flatten(), layer))
    x, y = torch.full((16, 1, 3, 3), 0.5), torch.zeros(16, dtype=torch.int64)
    for factor, stands in ((1.1, False), (0.9, True)):
        threat = ball(Norm.L2, round(factor * distance, 6), access)
        rng = streams(len(x))
        x_adv = run(
            ATTACKS["square"](queries=400),
            view_of(defense, access),
            x,
            y,
            threat,
            rng.fork("attack"),
        )
        verdict = judge(defense, x, y, x_adv, threat=threat, draws=1, rng=rng.fork("judge"))
        assert bool(verdict.legal.all())
        assert verdict.robust.tolist() == [stands] * 16

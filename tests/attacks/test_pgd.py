from __future__ import annotations

import pytest
import torch
from attack_toys import Identity, Pull, Recorder, ball, small_problem, streams

import bench_attacks.pgd
from bench.api import Access, Averaged, Norm, averaged_loss, margin, size
from bench.core.access import view_of
from bench_attacks._best import Best
from bench_attacks.bpda_eot import BpdaEot
from bench_attacks.pgd import Pgd, random_point


def test_steps_plus_one_evaluations_of_one_draw_where_nothing_is_random():
    defense, x, y = small_problem(Identity())
    view = Recorder(view_of(defense, Access.FULL))
    Pgd(steps=7, eot=10)(view, x, y, threat=ball(Norm.LINF, 0.01, Access.FULL), rng=streams(8))
    assert [len(seen) for seen in view.seen] == [8] * 8


@pytest.mark.parametrize("norm", list(Norm))
def test_returns_the_best_iterate_by_wrong_share_then_loss(norm):
    defense, x, y = small_problem(Identity())
    view = Recorder(view_of(defense, Access.FULL))
    attack = Pgd(steps=9, step_size=0.05, loss="margin")  # too large a step: it overshoots
    best = attack(view, x, y, threat=ball(norm, 0.08, Access.FULL), rng=streams(8))
    reached = torch.stack([margin(defense.classify(seen), y) for seen in view.seen])
    assert torch.equal(margin(defense.classify(best), y), reached.amax(0))


@pytest.mark.parametrize("norm", list(Norm))
def test_restarts_never_hurt(norm):
    defense, x, y = small_problem(Identity())
    view, threat = view_of(defense, Access.FULL), ball(norm, 0.05, Access.FULL)
    results = [
        Pgd(steps=2, restarts=restarts, loss="margin")(
            view, x, y, threat=threat, rng=streams(8)
        )
        for restarts in (1, 6)
    ]
    one, six = (margin(defense.classify(x_adv), y) for x_adv in results)
    undone = one <= 0  # an image that is done is left as it is
    assert bool((six >= one)[undone].all())
    assert bool((six > one).any())
    assert bool((six > 0)[~undone].all())


def test_images_that_are_done_leave_and_change_nothing_for_the_others(monkeypatch):
    defense, x, y = small_problem(Pull(), images=24)
    threat = ball(Norm.LINF, 0.1, Access.BPDA)
    results, rows = [], []
    for leave in (1, 10, 10_000):
        monkeypatch.setattr(bench_attacks.pgd, "_LEAVE", leave)
        view = Recorder(view_of(defense, Access.BPDA))
        attack = Pgd(steps=30, eot=4)
        results.append(attack(view, x, y, threat=threat, rng=streams(24)))
        rows.append(sum(len(seen) for seen in view.seen))
    assert rows[0] < rows[1] < rows[2] == 24 * 4 * (31 + 2)
    view = view_of(defense, Access.BPDA)
    seen = averaged_loss(view, results[1], y, loss=margin, draws=50, rng=streams(24, 5))
    assert 0 < int((seen.wrong < 0.5).sum()) < 24
    for result in results[:2]:
        same = (result - results[2]).flatten(1).abs().amax(1) < 1e-12
        assert bool(same[seen.wrong < 0.5].all())


def test_stops_when_all_are_done():
    defense, x, y = small_problem(Identity())
    view = Recorder(view_of(defense, Access.FULL))
    threat = ball(Norm.LINF, 0.1, Access.FULL)
    Pgd(steps=50, restarts=3)(view, x, (y + 1) % 5, threat=threat, rng=streams(8))
    assert len(view.seen) == 10


@pytest.mark.parametrize("norm", list(Norm))
def test_random_points_fill_the_ball(norm):
    x = torch.full((2000, 1, 2, 2), 0.5, dtype=torch.float64)
    delta = random_point(x, ball(norm, 0.2, Access.FULL), streams(2000)) - x
    reach = size(delta, norm) / 0.2
    assert float(reach.max()) <= 1 + 1e-9
    assert abs(float((reach**4).mean()) - 0.5) < 0.03  # share of the volume within: uniform
    assert float(delta.mean((0, 1)).abs().max()) < 0.02


def test_bpda_eot_is_pgd_in_the_budget_of_the_literature():
    defense, x, y = small_problem(Pull(), images=2)
    view = Recorder(view_of(defense, Access.BPDA))
    threat = ball(Norm.LINF, 0.001, Access.BPDA)
    BpdaEot()(view, x, y, threat=threat, rng=streams(2))
    assert [len(seen) for seen in view.seen] == [2 * 15] * 53


def test_votes_count_before_the_loss():
    best = Best.nothing(torch.zeros(1, 1, 1, 1))
    offers = [(0.2, 5.0), (0.5, 1.0), (0.5, 2.0), (0.4, 9.0)]
    for value, (wrong, loss) in enumerate(offers):
        seen = Averaged(torch.tensor([loss]), torch.tensor([wrong]))
        best.offer(torch.full((1, 1, 1, 1), float(value)), seen)
    assert float(best.x) == 2.0
    assert (float(best.wrong), float(best.loss)) == (0.5, 2.0)

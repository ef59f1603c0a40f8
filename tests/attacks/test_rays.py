"""RayS on votes: the closed form, the ball, what it may see, and what its votes cost."""

from __future__ import annotations

import pytest
import torch
from attack_toys import Identity, Pull, Recorder, ball, run, small_problem, streams

import bench_attacks.rays
from bench.api import Access, Norm, size
from bench.calibration.linear import linear_problem
from bench.calibration.purifiers import Affine, Noisy, network
from bench.core.access import view_of
from bench.core.defense import Defense
from bench.evaluation.judge import judge
from bench_attacks._votes import rounds, wrong_share
from bench_attacks.rays import Rays, Rules, Search


def linear(purifier, *, images=30):
    problem = linear_problem(classes=2, images=images, seed=0)
    return problem, Defense(purifier, network(problem, purifier))


def attack(defense, problem, eps, **params):
    threat = ball(Norm.LINF, eps, Access.LABEL)
    view, rng = view_of(defense, Access.LABEL), streams(len(problem.y))
    return threat, Rays(**params)(view, problem.x, problem.y, threat=threat, rng=rng)


@pytest.mark.parametrize("share", range(3))
def test_it_breaks_two_percent_beyond_the_closed_form_and_never_before(share):
    problem, defense = linear(Affine())
    nearest = problem.critical_radii(Norm.LINF)
    eps = round(float(problem.radii(Norm.LINF)[share]), 6)
    threat, x_adv = attack(defense, problem, eps, queries=400)
    verdict = judge(
        defense, problem.x, problem.y, x_adv, threat=threat, draws=1, rng=streams(30)
    )
    assert bool(verdict.legal.all())
    broken = ~verdict.robust
    assert bool(broken[1.02 * nearest < eps].all())
    assert not bool(broken[nearest > eps].any())
    assert 1 < int(broken.sum()) < 29


def test_what_it_breaks_behind_noise_lies_in_the_ball_and_stays_broken():
    problem, defense = linear(Noisy(0.02))
    eps = round(float(problem.radii(Norm.LINF)[2]), 6)
    threat, x_adv = attack(defense, problem, eps, queries=300)
    verdict = judge(
        defense, problem.x, problem.y, x_adv, threat=threat, draws=50, rng=streams(30, 5)
    )
    assert bool((size(x_adv.double() - problem.x.double(), Norm.LINF) <= eps + 1e-6).all())
    assert bool(verdict.legal.all())
    could = problem.critical_radii(Norm.LINF) < 0.5 * eps  # by far, for votes are noisy
    assert int(could.sum()) >= 5
    assert not bool(verdict.robust[could].any())


@pytest.mark.parametrize("purifier", [Identity(), Pull()])
def test_logits_are_nothing_to_it(purifier):
    """The same images from logits, which it could read, and from labels."""
    defense, x, y = small_problem(purifier)
    logits, labels = (
        run(
            Rays(queries=60, eot=3), view_of(defense, access), x, y,
            ball(Norm.LINF, 0.1, access), streams(8),
        )
        for access in (Access.QUERY, Access.LABEL)
    )  # fmt: skip
    assert torch.equal(logits, labels)
    assert not torch.equal(labels, x)


@pytest.mark.parametrize("leave", [1, 10_000])
def test_who_left_changes_nothing_but_the_cost(leave, monkeypatch):
    defense, x, y = small_problem(Identity(), images=12)
    view, threat = Recorder(view_of(defense, Access.LABEL)), ball(Norm.LINF, 0.15, Access.LABEL)
    usual = Rays(queries=60)(view, x, y, threat=threat, rng=streams(12))
    sizes = [len(seen) for seen in view.seen]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 12
    monkeypatch.setattr(bench_attacks.rays, "_LEAVE", leave)
    other = Rays(queries=60)(view, x, y, threat=threat, rng=streams(12))
    fooled = defense.classify(usual).argmax(1) != y
    assert torch.equal(fooled, defense.classify(other).argmax(1) != y)
    assert bool(fooled.any())


@pytest.mark.parametrize("luck", [False, True])
def test_the_radius_only_falls_and_is_never_too_small(luck):
    x, eps = torch.full((4, 1, 4, 4), 0.5), 0.05
    weight = torch.linspace(0.1, 1, 16).reshape(1, 4, 4)
    search, rules = Search.begin(x, streams(4)), Rules.of(x, eps, luck=luck)

    def wrong(radius, sign):
        return radius * (weight * sign).flatten(1).sum(1) > 1.0

    before = search.r
    for _ in range(300):
        sign, radius = search.question(rules)
        search = search.answered(wrong(radius, sign), sign, radius, rules)
        assert bool((search.r <= before).all())
        before = search.r
    assert bool(wrong(search.r, search.sign).all())
    assert not bool(wrong(search.r - eps / 64, search.sign).any())
    torch.testing.assert_close(
        search.r, torch.full((4,), float(1 / weight.sum())), rtol=0.02, atol=0
    )


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 2, 2), (3, 5, 7)])
def test_the_blocks_of_a_level_are_all_pixels_once(shape):
    x = torch.zeros(2, *shape)
    search, rules = Search.begin(x, streams(2)), Rules.of(x, 0.1, luck=False)
    assert int(rules.size[-1]) == 1
    for _ in rules.size:
        level = int(search.level[0])
        seen = torch.zeros_like(x)
        for _ in range(int(rules.count[level])):
            seen += rules.block(search).to(x.dtype)
            sign, radius = search.question(rules)
            no = torch.zeros(2, dtype=torch.bool)
            search = search.answered(no, sign, radius, rules)
        assert torch.equal(seen, torch.ones_like(x))
    assert int(search.level[0]) == len(rules.size) - 1


class Scripted:
    """A view of written answers: draw by draw, whether an image is mistaken."""

    access, stochastic = Access.LABEL, True

    def __init__(self, *wrong):
        self.wrong, self.taken, self.asked = torch.tensor(wrong), torch.zeros(len(wrong)), 0

    def __call__(self, x, *, rng):
        draws = len(rng) // len(x)
        images = x[:, 0, 0, 0].long()
        columns = self.taken[images][:, None].long() + torch.arange(draws)
        self.taken[images] += draws
        answers = self.wrong[images[:, None], columns].flatten()
        return torch.nn.functional.one_hot(answers.long(), 2).to(x.dtype)


def test_a_vote_asks_more_only_while_it_is_open():
    answers = (
        [0] * 10,  # refused by the first draw
        [1, 0] + [0] * 8,  # open at two, refused at four
        [1] * 10,  # six of ten are enough
        [1, 0] * 5,  # a tie after all draws
        [1, 1, 1, 0, 0, 0, 1, 1, 1, 0],  # six of ten in the end
    )
    view, x = Scripted(*answers), torch.arange(5.0)[:, None, None, None].expand(5, 1, 2, 2)
    y, nobody = torch.zeros(5, dtype=torch.int64), torch.zeros(5, dtype=torch.bool)
    share = wrong_share(view, x, y, most=10, whole=nobody, rng=streams(5))
    assert view.taken.tolist() == [1, 4, 6, 10, 10]
    assert share.tolist() == pytest.approx([0, 0.25, 1, 0.5, 0.6])
    view = Scripted(*answers)
    whole = wrong_share(view, x, y, most=10, whole=~nobody, rng=streams(5))
    assert view.taken.tolist() == [10] * 5
    assert whole.tolist() == pytest.approx([0, 0.1, 1, 0.5, 0.6])


@pytest.mark.parametrize(
    ("most", "looks"), [(1, [1]), (2, [1, 2]), (5, [1, 2, 3, 5]), (10, [1, 2, 4, 6, 10])]
)
def test_votes_look_early_at_their_majority_and_at_the_end(most, looks):
    assert list(rounds(most)) == looks

from __future__ import annotations

import pytest
import torch
from attack_toys import Identity, Pull, Recorder, ball, small_problem, streams
from pyautoattack.square import SquareAttack

import bench_attacks.square
from bench.api import Access, Norm, margin, size
from bench.core.access import view_of
from bench.evaluation.judge import judge
from bench_attacks.square import Square, bump, shifted_mass, side_of, square, windows


@pytest.mark.parametrize("norm", list(Norm))
@pytest.mark.parametrize("shape", [(1, 2, 2), (1, 1, 1), (3, 5, 9), (1, 28, 28), (3, 32, 32)])
def test_images_of_any_shape(norm, shape):
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(x[0].numel(), 3))
    defense, y = small_problem(Identity())[0], torch.tensor([0, 1])
    defense.classifier = net.requires_grad_(False)
    threat = ball(norm, 0.3, Access.QUERY)
    x_adv = Square(queries=30)(
        view_of(defense, Access.QUERY), x, y, threat=threat, rng=streams(2)
    )
    verdict = judge(defense, x, y, x_adv, threat=threat, draws=1, rng=streams(2))
    assert bool(verdict.legal.all())
    assert not torch.equal(x_adv, x)


@pytest.mark.parametrize("norm", list(Norm))
def test_the_mean_margin_only_rises_and_images_that_fall_leave(norm, monkeypatch):
    monkeypatch.setattr(bench_attacks.square, "_LEAVE", 5)
    defense, x, y = small_problem(Identity(), images=16)
    view = Recorder(view_of(defense, Access.QUERY))
    threat = ball(norm, 0.15 if norm is Norm.LINF else 0.5, Access.QUERY)
    x_adv = Square(queries=200)(view, x, y, threat=threat, rng=streams(16))
    sizes = [len(seen) for seen in view.seen]
    assert sizes == sorted(sizes, reverse=True)
    assert 0 < sizes[-1] < 16
    start = margin(defense.classify(view.seen[0]), y)
    assert bool((margin(defense.classify(x_adv), y) >= start).all())


@pytest.mark.parametrize("leave", [1, 10_000])
@pytest.mark.parametrize("by_need", [False, True])
def test_who_left_changes_nothing(leave, by_need, monkeypatch):
    defense, x, y = small_problem(Pull(), images=12)
    view, threat = view_of(defense, Access.QUERY), ball(Norm.LINF, 0.15, Access.QUERY)
    attack = Square(queries=60, eot=2, by_need=by_need)
    usual = attack(view, x, y, threat=threat, rng=streams(12))
    monkeypatch.setattr(bench_attacks.square, "_LEAVE", leave)
    other = attack(view, x, y, threat=threat, rng=streams(12))
    torch.testing.assert_close(other, usual, rtol=0, atol=1e-12)


class Scripted:
    """Two draws an image, whose margins are written down for each call."""

    access, stochastic = Access.QUERY, True

    def __init__(self, *margins):
        self.margins, self.seen = list(margins), []

    def __call__(self, x, *, rng):
        self.seen.append(x[:1].clone())
        wrong_by = torch.tensor(self.margins.pop(0), dtype=x.dtype)
        return torch.stack((torch.zeros_like(wrong_by), wrong_by), dim=1)


def test_a_proposal_that_fools_every_draw_beats_a_higher_mean():
    x, y = torch.full((1, 1, 4, 4), 0.5), torch.tensor([0])
    view = Scripted([9.0, -1.0], [0.1, 0.1], [5.0, 5.0])
    threat = ball(Norm.LINF, 0.1, Access.QUERY)
    x_adv = Square(queries=3, eot=2)(view, x, y, threat=threat, rng=streams(1, seed=1))
    assert not torch.equal(view.seen[0], view.seen[1])
    assert torch.equal(x_adv, view.seen[1])


def test_by_need_only_a_better_first_draw_is_followed_by_the_others():
    """Of three draws; the proposals in turn: taken, dropped at once, looked at, taken."""
    x, y = torch.full((1, 1, 4, 4), 0.5), torch.tensor([0])
    view = Scripted([-1.0], [-2.0, 0.0], [-1.5], [0.0], [-4.0, -3.0], [0.0], [-0.2, -0.4])
    threat = ball(Norm.LINF, 0.1, Access.QUERY)
    attack = Square(queries=4, eot=3, by_need=True)
    x_adv = attack(view, x, y, threat=threat, rng=streams(1, seed=1))
    assert view.margins == [], "every pass was asked for"
    assert torch.equal(x_adv, view.seen[5])
    assert torch.equal(view.seen[5], view.seen[6])


def test_without_noise_by_need_changes_nothing():
    defense, x, y = small_problem(Identity(), images=8)
    view, threat = view_of(defense, Access.QUERY), ball(Norm.LINF, 0.1, Access.QUERY)
    usual, by_need = (
        Square(queries=40, by_need=by_need)(view, x, y, threat=threat, rng=streams(8))
        for by_need in (False, True)
    )
    assert torch.equal(usual, by_need)


@pytest.mark.parametrize(("norm", "eps"), [(Norm.LINF, 0.06), (Norm.L2, 0.5)])
def test_breaks_about_as_much_as_the_authors_square(norm, eps):
    defense, x, y = small_problem(Identity(), images=64, side=8, dtype=torch.float32)
    threat = ball(norm, eps, Access.QUERY)
    x_adv = Square(queries=150)(
        view_of(defense, Access.QUERY), x, y, threat=threat, rng=streams(64)
    )
    with torch.random.fork_rng():
        library = SquareAttack(
            defense.classifier, norm=norm.value, n_queries=150, eps=eps, seed=0, device="cpu"
        )
        reference = library.perturb(x, y)
    ours, theirs = (
        int((defense.classify(images).argmax(1) == y).sum()) for images in (x_adv, reference)
    )
    assert 5 < theirs < 59
    assert ours <= theirs + 4


@pytest.mark.parametrize("norm", list(Norm))
@pytest.mark.parametrize("side", [1, 2, 5, 32])
def test_squares_shrink_and_fit(norm, side):
    sides = [side_of(0.8, q / 1000, (1, side, side), norm) for q in range(1000)]
    assert sides == sorted(sides, reverse=True)
    assert 1 <= sides[-1] <= sides[0] <= side
    if side == 32:
        assert (sides[0], sides[-1]) == (29, 1 if norm is Norm.LINF else 3)


def test_moves_touch_only_their_windows():
    delta = 0.01 * torch.randn(6, 2, 7, 7, generator=torch.Generator().manual_seed(0)).double()
    moved = square(delta, 0.3, 3, streams(6))
    touched = (moved != delta).double()
    assert torch.equal(touched.sum((2, 3)), torch.full((6, 2), 9.0, dtype=torch.float64))
    assert set(moved[touched.bool()].unique().tolist()) == {-0.3, 0.3}
    assert len({tuple(image[0].flatten().tolist()) for image in touched}) > 1


def test_mass_moves_between_windows_and_the_length_stays():
    delta = torch.randn(40, 2, 7, 7, generator=torch.Generator().manual_seed(0)).double()
    delta *= 0.5 / size(delta, Norm.L2)[:, None, None, None]
    moved = shifted_mass(delta, 0.5, 3, streams(40))
    torch.testing.assert_close(size(moved, Norm.L2), torch.full((40,), 0.5).double())
    kept = (moved - delta).abs() < 1e-12
    assert bool((kept.sum((2, 3)) >= 49 - 18).all())
    assert bool((moved == 0).any())
    # A pattern of one pixel can cancel what is there: the rest then carries the length.
    moved = shifted_mass(delta, 0.5, 1, streams(40))
    torch.testing.assert_close(size(moved, Norm.L2), torch.full((40,), 0.5).double())


@pytest.mark.parametrize("side", [1, 2, 3, 6])
def test_a_bump_has_two_sides_and_length_one(side):
    pattern = bump(side, torch.zeros(1, dtype=torch.float64))
    assert pattern.shape == (side, side)
    assert float(pattern.norm()) == pytest.approx(1)
    assert bool((pattern[: side // 2] > 0).all())
    assert bool((pattern[side // 2 :] < 0).all())


def test_windows_reach_every_corner():
    like = torch.zeros(3000, 1, 4, 5)
    hit = torch.zeros_like(like)
    hit[windows(like, 2, streams(3000).uniform((2,)))] = 1
    assert torch.equal(hit.sum((1, 2, 3)), torch.full((3000,), 4.0))
    assert bool((hit.sum((0, 1)) > 100).all())

from __future__ import annotations

import pytest
import torch
from attack_toys import Identity, Pull, Recorder, ball, small_problem, streams

from bench.api import Access, Norm, cross_entropy, project
from bench.core.access import view_of
from bench_attacks.adaptive import Adaptive
from bench_attacks.pgd import Pgd


def unit(g, norm):
    if norm is Norm.LINF:
        return g.sign()
    return g / g.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None, None]


@pytest.mark.parametrize("form", ["direct", "normalised", "lagrangian"])
@pytest.mark.parametrize("norm", list(Norm))
def test_without_lambda_it_is_pgd_on_the_classifier(norm, form):
    defense, x, y = small_problem(Identity())
    aligned = Recorder(view_of(defense, Access.BPDA))
    plain = Recorder(view_of(defense, Access.TRANSFER))
    threat, rng = ball(norm, 0.05, Access.BPDA), streams(8)
    Adaptive(steps=9, lam=0.0, form=form)(aligned, x, y, threat=threat, rng=rng)
    Pgd(steps=9, random_start=False)(plain, x, y, threat=threat, rng=rng)
    assert len(aligned.seen) == len(plain.seen) == 10  # the last one is the vote
    for one, other in zip(aligned.seen, plain.seen, strict=True):
        torch.testing.assert_close(
            one, other, rtol=0, atol=1e-12
        )  # pgd multiplies and adds in one


@pytest.mark.parametrize("form", ["direct", "normalised", "lagrangian"])
@pytest.mark.parametrize("norm", list(Norm))
@pytest.mark.parametrize("eps", [0.1, None])
def test_follows_the_box_of_the_method(norm, form, eps):
    defense, x, y = small_problem(Pull(noise=0.0))
    threat, a, lam = ball(norm, eps, Access.BPDA), 0.03, 0.7
    found = Adaptive(steps=4, lam=lam, form=form, step_size=a)(
        view_of(defense, Access.BPDA), x, y, threat=threat, rng=streams(8)
    )
    x_t, dp = x, torch.zeros_like(x)
    for _ in range(4):
        leaf = x_t.detach().requires_grad_()
        (g,) = torch.autograd.grad(cross_entropy(defense.classify(leaf), y).sum(), leaf)
        move = {
            "direct": a * unit(g, norm) + lam * dp,
            "normalised": a * unit(g, norm) + a * lam * unit(dp, norm),
            "lagrangian": a * unit(g + lam * dp, norm),
        }[form]
        x_t = project(x_t + move, x, norm, threat.radius)
        dp = 0.1 * (0.5 - x_t)  # one step of Pull
    torch.testing.assert_close(found, x_t, rtol=0, atol=1e-12)


def test_votes_every_tenth_step_and_the_last():
    defense, x, y = small_problem(Pull(), images=3)
    view = Recorder(view_of(defense, Access.BPDA))
    Adaptive(steps=25, eot=4)(
        view, x, y, threat=ball(Norm.LINF, 0.01, Access.BPDA), rng=streams(3)
    )
    kinds = "".join("v" if len(seen) == 12 else "." for seen in view.seen)
    assert kinds == ("." * 10 + "v") * 2 + "." * 5 + "v"


def test_through_the_defense_it_sees_the_draws():
    defense, x, y = small_problem(Pull(), images=3)
    view = Recorder(view_of(defense, Access.FULL))
    Adaptive(steps=5, eot=4, through="defense")(
        view, x, y, threat=ball(Norm.LINF, 0.01, Access.FULL), rng=streams(3)
    )
    assert [len(seen) for seen in view.seen] == [12] * 6


def test_the_shift_is_the_mean_over_draws():
    # With only lambda at work the first moved iterate is x + lam times a mean of 400 draws.
    defense, x, y = small_problem(Pull(noise=0.1), images=3)
    x = x.clamp(0.45, 0.55)
    found = Adaptive(steps=2, eot=400, lam=0.5, step_size=1e-9)(
        view_of(defense, Access.BPDA), x, y, threat=ball(Norm.LINF, 0.4, Access.BPDA),
        rng=streams(3),
    )  # fmt: skip
    noise = (found - x - 0.5 * 0.1 * (0.5 - x)).std()
    assert pytest.approx(float(noise), rel=0.4) == 0.5 * 0.1 / 400**0.5

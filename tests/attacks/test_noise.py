from __future__ import annotations

import pytest
import torch
from attack_toys import Identity, Recorder, ball, small_problem, streams

from bench.api import Access, Norm, margin, size
from bench.core.access import view_of
from bench_attacks.noise import Noise


@pytest.mark.parametrize("norm", list(Norm))
def test_tries_corners_or_full_lengths(norm):
    defense, x, y = small_problem(Identity())
    x = 0.3 + 0.4 * x
    view = Recorder(view_of(defense, Access.QUERY))
    Noise(tries=5)(view, x, y, threat=ball(norm, 0.2, Access.QUERY), rng=streams(8))
    assert len(view.seen) == 5
    assert len({tuple((seen - x).flatten().tolist()) for seen in view.seen}) == 5
    for seen in view.seen:
        delta = (seen - x).abs() if norm is Norm.LINF else size(seen - x, norm)
        torch.testing.assert_close(delta, torch.full_like(delta, 0.2))


@pytest.mark.parametrize("norm", list(Norm))
def test_more_tries_never_hurt_and_the_best_is_kept(norm):
    defense, x, y = small_problem(Identity())
    threat = ball(norm, 0.2, Access.QUERY)
    found = []
    for tries in (5, 50):
        view = Recorder(view_of(defense, Access.QUERY))
        x_adv = Noise(tries=tries)(view, x, y, threat=threat, rng=streams(8))
        reached = torch.stack([margin(defense.classify(seen), y) for seen in view.seen])
        found.append(margin(defense.classify(x_adv), y))
        assert torch.equal(found[-1], reached.amax(0))
    assert bool((found[1] >= found[0]).all())
    assert bool((found[1] > found[0]).any())

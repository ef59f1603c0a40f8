"""Sequential draws: the verdict of all draws, proven by counting, with far fewer of them."""

from __future__ import annotations

import functools
import itertools
from math import comb

import pytest
import torch
from torch import Tensor, nn

from bench.core.defense import Defense
from bench.core.networks import frozen
from bench.core.rng import Rng
from bench.evaluation.early_stopping import LEVEL, looks, needed
from bench.evaluation.judge import elected, vote


def chance_of_another_verdict(counts: tuple[int, ...]) -> float:
    """Walk through all looks at draws with these counts, the true class first, exactly."""
    draws = sum(counts)
    truth = counts[0] > max(counts[1:])
    stops = looks(draws)

    @functools.cache
    def walk(look: int, seen: tuple[int, ...]) -> float:
        taken = stops[look]
        if taken == draws:
            return 0.0
        true, rival = needed(taken, draws=draws)
        if seen[0] >= true:
            return float(not truth)
        if max(seen[1:]) >= rival:
            return float(truth)
        return step(look + 1, seen)

    def step(look: int, seen: tuple[int, ...]) -> float:
        more = stops[look] - sum(seen)
        left = [count - had for count, had in zip(counts, seen, strict=True)]
        total, found = comb(sum(left), more), 0.0
        ranges = [range(min(more, most) + 1) for most in left]
        for taken in itertools.product(*ranges):
            if sum(taken) == more:
                ways = 1
                for most, got in zip(left, taken, strict=True):
                    ways *= comb(most, got)
                after = tuple(a + b for a, b in zip(seen, taken, strict=True))
                found += ways / total * walk(look, after)
        return found

    return step(0, (0,) * len(counts))


@pytest.mark.parametrize("draws", [3, 10, 17, 24])
def test_no_votes_of_three_classes_change_their_verdict_too_often(draws: int) -> None:
    for true in range(draws + 1):
        for rival in range((draws - true) // 2, draws - true + 1):
            counts = (true, rival, draws - true - rival)
            assert chance_of_another_verdict(counts) <= LEVEL / 2, counts


@pytest.mark.parametrize("counts", [(25, 25), (26, 24), (24, 26), (25, 24, 1), (17, 17, 16)])
def test_the_hardest_votes_of_fifty_draws_keep_their_verdict(counts: tuple[int, ...]) -> None:
    assert chance_of_another_verdict(counts) <= LEVEL / 2


def test_the_level_is_used_and_not_only_kept() -> None:
    """A rule that never stopped early would pass the tests above."""
    assert chance_of_another_verdict((25, 25)) > LEVEL / 20
    assert looks(50)[0] <= 10


def test_few_draws_stop_where_the_rest_cannot_matter() -> None:
    assert looks(1) == (1,)
    assert looks(3) == (2, 3)  # two of three is a majority


class Shaky:
    """Adds a number of its own to every image and draw."""

    stochastic = True
    differentiable = True

    def __init__(self) -> None:
        self.rows = 0

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        self.rows += len(x)
        return x + rng.normal_like(x)


class Sign(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        brightness = x.flatten(1).mean(1)
        return torch.stack([brightness, -brightness], 1)


def test_the_judge_saves_draws_and_keeps_verdicts_and_streams() -> None:
    n, draws = 2000, 50
    # Chances of class 0 from 2 to 98 %, spread evenly over the quantiles: most are clear.
    x = torch.special.ndtri(torch.linspace(0.02, 0.98, n)).reshape(n, 1, 1, 1)
    y, rng = torch.zeros(n, dtype=torch.int64), Rng.seeded(3, torch.arange(n))
    all_draws, some = Shaky(), Shaky()
    sign = frozen(Sign())  # so that nothing has to be copied
    whole = vote(Defense(all_draws, sign), x, y, draws=draws, rng=rng)
    quick = vote(Defense(some, sign), x, y, draws=draws, rng=rng, sequential=True)

    other = elected(whole.votes, y) != elected(quick.votes, y)
    assert other.float().mean() <= LEVEL
    assert some.rows < all_draws.rows
    clear = (whole.votes.amax(1) >= draws - 1).nonzero().flatten()
    assert quick.votes[clear].sum() <= draws / 3 * len(clear)
    full = quick.votes.sum(1) == draws
    assert full.any()
    # The draws are the same ones: who went to the end has the same votes and mean logits.
    assert torch.equal(quick.votes[full], whole.votes[full])
    assert torch.allclose(quick.logits[full], whole.logits[full], atol=1e-6)
    assert bool((quick.votes <= whole.votes).all())


def test_mean_logits_are_the_mean_over_draws() -> None:
    x, y = torch.full((3, 1, 1, 1), 0.3), torch.zeros(3, dtype=torch.int64)
    rng = Rng.seeded(1, torch.arange(3))
    ballot = vote(Defense(Shaky(), Sign()), x, y, draws=40, rng=rng)
    draws = torch.stack(
        [(x + rng.repeat(40)[k::40].normal_like(x)).flatten() for k in range(40)]
    )
    assert torch.allclose(ballot.logits[:, 0], draws.mean(0), atol=1e-6)
    assert torch.equal(ballot.logits[:, 1], -ballot.logits[:, 0])

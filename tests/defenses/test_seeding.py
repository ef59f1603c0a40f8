"""Seeds of trainings: every seed draws its own batches, also beyond 32 bits."""

from __future__ import annotations

import itertools

import torch

from bench_defenses._seeding import generator, numbered, seeded


def draw(source: torch.Generator) -> list[int]:
    return torch.randint(2**31, (4,), generator=source).tolist()


def test_iterations_of_different_seeds_draw_differently() -> None:
    places = itertools.product((0, 1, 2, 1000, 2**31 - 1), (0, 1, 1500, 2**31 + 3))
    draws = [tuple(draw(numbered(seed, number))) for seed, number in places]
    assert len(set(draws)) == len(draws)


def test_seed_0_counts_iterations() -> None:
    assert draw(numbered(0, 7)) == draw(torch.Generator().manual_seed(7))


def test_seeds_below_a_thousand_stay_apart() -> None:
    starts = sorted((seed * 0x9E3779B9) % 2**32 for seed in range(1000))
    gaps = [b - a for a, b in itertools.pairwise(starts)]
    assert min(*gaps, 2**32 - starts[-1]) > 10**6


def test_a_purpose_has_its_own_generator() -> None:
    draws = {tuple(draw(generator(seed, name))) for seed in (0, 1) for name in ("a", "b")}
    assert len(draws) == 4


def test_initial_weights_leave_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    with seeded(3):
        first = torch.rand(2)
    with seeded(3):
        assert torch.equal(torch.rand(2), first)
    assert torch.equal(torch.random.get_rng_state(), before)

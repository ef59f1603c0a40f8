"""Intervals and tests of accuracies against scipy's, closed forms and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from bench.errors import UsageError
from bench.results.stats import (
    images_needed,
    images_needed_unpaired,
    mcnemar,
    mcnemar_rises,
    paired_bootstrap,
    paired_interval,
    wilson,
)

COUNTS = st.integers(1, 10_000).flatmap(
    lambda n: st.tuples(st.integers(0, n), st.just(n))
)  # successes of n
PAIRS = st.tuples(st.integers(0, 60), st.integers(0, 60))  # discordant
SMALL = settings(deadline=None, max_examples=50)


@settings(deadline=None)
@given(COUNTS)
def test_it_is_scipys(counts: tuple[int, int]) -> None:
    right, n = counts
    expected = binomtest(right, n).proportion_ci(method="wilson")
    assert wilson(right, n) == pytest.approx((expected.low, expected.high), abs=1e-7)


@settings(deadline=None)
@given(COUNTS)
def test_it_holds_the_share_and_stays_in_the_unit_interval(counts: tuple[int, int]) -> None:
    right, n = counts
    low, high = wilson(right, n)
    assert 0 <= low <= right / n + 1e-12
    assert right / n - 1e-12 <= high <= 1
    assert low < high


@settings(deadline=None)
@given(COUNTS)
def test_it_is_symmetric(counts: tuple[int, int]) -> None:
    right, n = counts
    low, high = wilson(right, n)
    other = wilson(n - right, n)
    assert (1 - other[1], 1 - other[0]) == pytest.approx((low, high), abs=1e-12)


def test_of_nothing_nothing_is_known() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


def test_of_many_much_is_known() -> None:
    low, high = wilson(5_000, 10_000)
    assert high - low < 0.02
    assert wilson(500, 500)[1] == 1.0
    assert 0.99 < wilson(500, 500)[0] < 1.0


# --- McNemar -------------------------------------------------------------------------------


@SMALL
@given(PAIRS)
def test_mcnemar_is_the_binomial_test_of_the_discordant_pairs(pairs: tuple[int, int]) -> None:
    b, c = pairs
    if b + c == 0:
        assert mcnemar(b, c) == mcnemar_rises(b, c) == 1.0
        return
    assert mcnemar(b, c) == pytest.approx(binomtest(b, b + c).pvalue, rel=1e-9)
    greater = binomtest(b, b + c, alternative="greater").pvalue
    assert mcnemar_rises(b, c) == pytest.approx(greater, rel=1e-9)


def test_mcnemar_by_hand() -> None:
    assert mcnemar(5, 0) == 2 / 32
    assert mcnemar_rises(5, 0) == 1 / 32
    assert mcnemar_rises(0, 5) == 1.0
    assert mcnemar(3, 1) == mcnemar(1, 3) == 2 * (4 + 1) / 16


def test_mcnemar_keeps_far_tails_and_large_counts() -> None:
    assert mcnemar_rises(1000, 0) == 2.0**-1000
    expected = binom.sf(5_199, 10_000, 0.5)
    assert mcnemar_rises(5_200, 4_800) == pytest.approx(expected, rel=1e-9)


# --- paired differences --------------------------------------------------------------------


def _pairs(b: int, c: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.ones(n), np.ones(n)
    second[:b] = 0
    first[b : b + c] = 0
    return first, second


def test_the_bootstrap_is_that_of_resampled_images() -> None:
    """Against the plain algorithm: draw images with replacement, average, take quantiles."""
    rng = np.random.default_rng(3)
    first, second = rng.random(40), rng.random(40)
    chosen = rng.integers(0, 40, size=(40_000, 40))
    plain = np.quantile((first - second)[chosen].mean(1), [0.025, 0.975])
    found = paired_bootstrap(first, second, seed=0, resamples=40_000)
    assert found == pytest.approx(tuple(plain), abs=0.005)


def test_the_bootstrap_depends_on_its_seed_alone() -> None:
    first, second = _pairs(12, 30, 200)
    assert paired_bootstrap(first, second, seed=1) == paired_bootstrap(first, second, seed=1)
    values = np.random.default_rng(0).random((2, 100))
    assert paired_bootstrap(*values, seed=1) != paired_bootstrap(*values, seed=2)


def test_the_bootstrap_has_no_width_where_all_pairs_differ_alike() -> None:
    assert paired_bootstrap([1, 0, 1], [1, 0, 1], seed=0) == (0.0, 0.0)
    low, high = paired_interval(0, 0, 3)
    assert low == -high
    assert high > 0.3


@pytest.mark.parametrize(("first", "second"), [([1, 0], [1]), ([], []), ([[1]], [[0]])])
def test_what_is_not_paired_is_refused(first: list[int], second: list[int]) -> None:
    with pytest.raises(UsageError, match="one value per image"):
        paired_bootstrap(first, second, seed=0)


@SMALL
@given(PAIRS, st.integers(0, 200))
def test_the_closed_form_turns_with_the_sides(pairs: tuple[int, int], agreeing: int) -> None:
    b, c = pairs
    n = b + c + agreeing + 1
    low, high = paired_interval(b, c, n)
    assert -1 <= low < high <= 1
    assert paired_interval(c, b, n) == pytest.approx((-high, -low))
    assert low <= (b - c) / n <= high


def test_the_closed_form_by_hand() -> None:
    low, high = paired_interval(3, 0, 6)  # 4/8 - 1/8 and sqrt((5/8 - 9/64) / 8)
    assert (low + high) / 2 == pytest.approx(3 / 8)
    assert (high - low) / 2 == pytest.approx(1.959964 * math.sqrt(31 / 512))


def test_both_intervals_agree_where_pairs_are_many() -> None:
    first, second = _pairs(150, 90, 1000)
    found = paired_bootstrap(first, second, seed=0)
    assert found == pytest.approx(paired_interval(150, 90, 1000), abs=0.002)


@pytest.mark.parametrize(("worse", "better"), [(0.1, 0.05), (0.02, 0.02), (0.3, 0.1)])
def test_the_intervals_cover_the_true_difference(worse: float, better: float) -> None:
    rng = np.random.default_rng(0)
    n = 200
    drawn = rng.multinomial(n, [worse, better, 1 - worse - better], size=400)
    closed = [paired_interval(int(b), int(c), n) for b, c, _ in drawn]
    true = worse - better
    assert 0.93 <= np.mean([low <= true <= high for low, high in closed]) <= 0.99
    resampled = [
        paired_bootstrap(*_pairs(b, c, n), seed=i, resamples=500)
        for i, (b, c, _) in enumerate(drawn)
    ]
    assert 0.91 <= np.mean([low <= true <= high for low, high in resampled]) <= 0.98


# --- sample sizes --------------------------------------------------------------------------


@pytest.mark.parametrize(("points", "unpaired", "paired"), [(3, 4_360, 1_300), (12.3, 260, 80)])
def test_the_published_sample_counts(points: float, unpaired: int, paired: int) -> None:
    """An accuracy of 50 % and 15 % discordant pairs give the figures usually quoted."""
    difference = points / 100
    assert images_needed_unpaired(difference, 0.5) == pytest.approx(unpaired, rel=0.01)
    assert images_needed(difference, discordant=0.15) == pytest.approx(paired, rel=0.06)
    assert images_needed(-difference, discordant=0.15) == images_needed(
        difference, discordant=0.15
    )


@pytest.mark.parametrize(("difference", "discordant"), [(0.05, 0.15), (0.123, 0.15)])
def test_the_test_finds_what_it_was_sized_for(difference: float, discordant: float) -> None:
    """Power of the exact test, counted; it is a little more careful than the asymptotic one."""
    n = images_needed(difference, discordant=discordant)
    toward = (discordant + difference) / 2 / discordant
    power = 0.0
    for pairs in range(n + 1):
        weight = binom.pmf(pairs, n, discordant)
        if weight > 1e-6:
            found = [b for b in range(pairs + 1) if mcnemar(b, pairs - b) < 0.05]
            power += weight * binom.pmf(found, pairs, toward).sum()
    assert 0.72 < power < 0.82


def test_more_power_and_stricter_levels_need_more_images() -> None:
    usual = images_needed(0.05, discordant=0.2)
    assert images_needed(0.05, discordant=0.2, power=0.9) > usual
    assert images_needed(0.05, discordant=0.2, level=0.01) > usual
    assert images_needed(0.05, discordant=0.4) > usual
    assert images_needed_unpaired(0.05, 0.5, power=0.9) > images_needed_unpaired(0.05, 0.5)
    assert images_needed_unpaired(0.05, 0.9) < images_needed_unpaired(0.05, 0.5)


def test_where_every_pair_changes_alike_nothing_varies_under_the_difference() -> None:
    assert images_needed(1.0, discordant=1.0) == math.ceil(1.959964**2)


def test_sizes_that_cannot_be() -> None:
    with pytest.raises(UsageError, match="no number of images"):
        images_needed(0.0, discordant=0.1)
    with pytest.raises(UsageError, match=r"share 0.1 of discordant pairs"):
        images_needed(-0.2, discordant=0.1)
    with pytest.raises(UsageError, match=r"power 1 and level 0.05"):
        images_needed(0.1, discordant=0.1, power=1)
    with pytest.raises(UsageError, match="share is 1"):
        images_needed_unpaired(0.1, 1)

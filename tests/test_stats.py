"""The Wilson interval against scipy's."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from bench.stats import wilson

COUNTS = st.integers(1, 10_000).flatmap(
    lambda n: st.tuples(st.integers(0, n), st.just(n))
)  # successes of n


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

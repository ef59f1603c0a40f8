"""The exact tests against closed forms."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.results.stats import exceeds, worsens

Counts = st.integers(0, 30)


@given(Counts, Counts, Counts, Counts)
def test_only_images_on_which_they_differ_count(
    lost: int, gained: int, right: int, wrong: int
) -> None:
    before = np.repeat([True, False, True, False], [lost, gained, right, wrong])
    after = np.repeat([False, True, True, False], [lost, gained, right, wrong])
    pairs = lost + gained
    tail = sum(comb(pairs, k) for k in range(lost, pairs + 1)) / 2**pairs
    assert worsens(before, after) == pytest.approx(tail)


@given(st.integers(1, 200), st.floats(0.001, 0.5))
def test_one_image_or_more_exceeds_by_the_complement_of_none(n: int, share: float) -> None:
    assert exceeds(1, n, share) == pytest.approx(1 - (1 - share) ** n)
    assert exceeds(0, n, share) == pytest.approx(1)


def test_no_images_prove_nothing() -> None:
    assert exceeds(0, 0, 0.01) == worsens([], []) == 1

"""Accuracies of hand-made votes and their worst case per image, known by counting."""

from __future__ import annotations

import pytest
from scipy.stats import binomtest

from bench.results.cell_row import accuracies
from bench.results.table import join

from .test_table import RIGHT, WRONG, outcomes

# --- accuracies ----------------------------------------------------------------------------


def test_accuracies_of_single_votes() -> None:
    found = accuracies(outcomes([RIGHT] * 3 + [WRONG], [RIGHT, WRONG, WRONG, WRONG]))
    assert found["clean"] == found["clean_single"] == found["clean_vote"] == 75.0
    assert found["robust"] == found["robust_single"] == found["robust_vote"] == 25.0


def test_the_intervals_are_scipys() -> None:
    found = accuracies(outcomes([RIGHT] * 3 + [WRONG], [RIGHT, WRONG, WRONG, WRONG]))
    for name, right in (("clean", 3), ("robust", 1)):
        ci = binomtest(right, 4).proportion_ci(method="wilson")
        assert found[f"{name}_low"] == pytest.approx(100 * ci.low, abs=0.005)
        assert found[f"{name}_high"] == pytest.approx(100 * ci.high, abs=0.005)


def test_a_tie_is_a_loss() -> None:
    found = accuracies(outcomes([[2, 2, 0]], [[2, 2, 0]]))
    assert found["clean_vote"] == found["robust_vote"] == 0.0
    assert found["clean_single"] == found["robust_single"] == 50.0


def test_the_single_draw_is_the_share_of_true_votes() -> None:
    found = accuracies(outcomes([[10, 0], [10, 0]], [[6, 4], [1, 9]]))
    assert found["robust_single"] == 35.0
    assert found["robust_vote"] == found["robust"] == 50.0


def test_a_strict_plurality_wins_without_a_majority() -> None:
    assert accuracies(outcomes([[4, 3, 3]], [[4, 3, 3]]))["robust"] == 100.0


def test_labels_choose_the_column() -> None:
    found = accuracies(outcomes([RIGHT, WRONG], [RIGHT, WRONG], labels=[0, 1]))
    assert found["clean"] == found["robust"] == 100.0


def test_robust_asks_that_the_clean_vote_is_right_and_the_vote_does_not() -> None:
    found = accuracies(outcomes([WRONG, RIGHT], [RIGHT, RIGHT]))
    assert found["robust"] == 50.0
    assert found["robust_vote"] == 100.0


# --- the worst case ------------------------------------------------------------------------


def test_the_worst_case_is_the_minimum_per_image_and_not_of_the_means() -> None:
    clean = [RIGHT] * 4
    first = outcomes(clean, [RIGHT, RIGHT, WRONG, WRONG])
    second = outcomes(clean, [WRONG, RIGHT, RIGHT, WRONG])
    joined = join([first, second])
    assert joined["robust"].tolist() == [False, True, False, False]
    assert joined["clean"].tolist() == [True] * 4
    # Both means are 50 %: their minimum is 50 %, and the truth 25 %.
    assert first["robust"].mean() == second["robust"].mean() == 0.5
    assert joined["robust"].mean() == 0.25


def test_the_worst_case_of_a_single_draw_is_per_image_too() -> None:
    joined = join([outcomes([[4, 0]] * 2, [[1, 3], [4, 0]]),
                   outcomes([[4, 0]] * 2, [[3, 1], [2, 2]])])  # fmt: skip
    assert joined["single"].tolist() == [0.25, 0.5]


def test_images_are_joined_by_index_and_not_by_place() -> None:
    first = outcomes([RIGHT] * 2, [RIGHT, WRONG])
    second = outcomes([RIGHT] * 2, [WRONG, RIGHT]).iloc[::-1].reset_index(drop=True)
    assert second["index"].tolist() == [1, 0]
    assert join([first, second])["robust"].tolist() == [False, False]
    third = outcomes([RIGHT] * 2, [RIGHT, WRONG]).iloc[::-1].reset_index(drop=True)
    assert join([first, third])["robust"].tolist() == [True, False]

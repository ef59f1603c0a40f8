"""Decision rules against enumeration of every subset of the stored draws."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from bench.core.threat import Access, Norm, ThreatModel
from bench.errors import UsageError
from bench.results.cell import Cell, Part
from bench.results.cell_row import accuracies
from bench.results.settings import NOTHING_SET
from bench.results.store import Store
from bench.results.table import collect, decided, with_worst_case
from bench.results.vote_rules import Rule, parse_rule, plurality, read_outcomes, right

from ..command import Bench, is_one_clear_message

Votes = list[list[int]]
SMALL = settings(deadline=None, max_examples=60)
VOTES = st.lists(st.integers(0, 4), min_size=2, max_size=4).filter(lambda v: 1 <= sum(v) <= 8)


def frame(votes: Votes, *, labels: list[int] | None = None, **columns: Any) -> pd.DataFrame:
    n = len(votes)
    return pd.DataFrame(
        {
            "index": range(n),
            "label": labels or [0] * n,
            "distance": 0.1,
            "legal": True,
            "clean": True,
            "robust": True,
            "clean_votes": [np.array(row) for row in votes],
            "votes": [np.array(row) for row in votes],
            **columns,
        }
    )


def share(votes: list[int], rule: str, label: int = 0) -> float:
    return float(right(frame([votes], labels=[label]), parse_rule(rule), attacked=True)[0])


def subsets(votes: list[int], size: int) -> list[list[int]]:
    draws = [k for k, count in enumerate(votes) for _ in range(count)]
    return [np.bincount(chosen, minlength=len(votes)).tolist()
            for chosen in combinations(draws, size)]  # fmt: skip


# --- the rules -----------------------------------------------------------------------------


@SMALL
@given(VOTES, st.data())
def test_vote_at_r_is_the_share_of_subsets_that_elect_the_true_class(
    votes: list[int], data: st.DataObject
) -> None:
    size = data.draw(st.integers(1, sum(votes)))
    label = data.draw(st.integers(0, len(votes) - 1))
    won = [
        chosen[label] > max(v for k, v in enumerate(chosen) if k != label)
        for chosen in subsets(votes, size)
    ]
    assert share(votes, f"vote@{size}", label) == pytest.approx(np.mean(won), abs=1e-12)


@SMALL
@given(VOTES, st.data())
def test_worst_of_n_is_the_share_of_subsets_that_are_all_right(
    votes: list[int], data: st.DataObject
) -> None:
    size = data.draw(st.integers(1, sum(votes)))
    if sum(votes) == 1:
        size = 1
    all_right = [chosen[0] == size for chosen in subsets(votes, size)]
    assert share(votes, f"worst-of-{size}") == pytest.approx(np.mean(all_right), abs=1e-12)


@SMALL
@given(VOTES)
def test_the_ends_are_the_simple_rules(votes: list[int]) -> None:
    draws = sum(votes)
    assert share(votes, f"vote@{draws}") == share(votes, "vote")
    assert share(votes, "vote@1") == pytest.approx(share(votes, "single"))
    assert share(votes, "worst-of-1") == pytest.approx(share(votes, "single"))
    assert share(votes, f"worst-of-{draws}") == (votes[0] == draws)


@SMALL
@given(VOTES)
def test_resubmitting_more_often_never_helps(votes: list[int]) -> None:
    shares = [share(votes, f"worst-of-{k}") for k in range(1, sum(votes) + 1)]
    assert shares == sorted(shares, reverse=True)


def test_by_hand() -> None:
    assert share([3, 1], "single") == 0.75
    assert share([3, 1], "vote@3") == 1.0
    assert share([3, 1], "vote@2") == 0.5  # with the other class it is a tie, a loss
    assert share([3, 1], "worst-of-2") == 0.5
    assert share([2, 2, 0], "vote") == 0.0


def test_many_draws_and_classes_are_exact() -> None:
    """From many stored draws the votes are binomial."""
    for draws in (15, 50):
        expected = binom.sf(draws // 2, draws, 0.6)  # more than half: a tie is a loss
        assert plurality(60_000, (40_000,), draws) == pytest.approx(expected, abs=2e-4)
    assert plurality(20, (2,) * 15, 50) == 1.0


def test_a_deterministic_defense_is_its_vote_by_every_number() -> None:
    one = frame([[1, 0], [0, 1]])
    for rule in ("single", "vote", "vote@5", "vote@51", "worst-of-10"):
        assert right(one, parse_rule(rule), attacked=True).tolist() == [1.0, 0.0]


def test_clean_and_attacked_votes_have_columns_of_their_own() -> None:
    votes = frame([[1, 3]], clean_votes=[np.array([4, 0])])
    assert right(votes, Rule("single"), attacked=False).tolist() == [1.0]
    assert right(votes, Rule("single"), attacked=True).tolist() == [0.25]


def test_mean_logit_may_overrule_the_vote() -> None:
    votes = frame(
        [[3, 1], [1, 3]],
        logits=[np.array([0.1, 2.0], dtype="f4"), np.array([0.5, 0.1], dtype="f4")],
        clean_logits=[np.array([1.0, 0.0], dtype="f4")] * 2,
    )
    assert right(votes, Rule("vote"), attacked=True).tolist() == [1.0, 0.0]
    assert right(votes, Rule("mean-logit"), attacked=True).tolist() == [0.0, 1.0]
    assert right(votes, Rule("mean-logit"), attacked=False).tolist() == [1.0, 1.0]


def test_of_no_images_there_is_nothing() -> None:
    assert right(frame([[1, 0]]).iloc[:0], Rule("single"), attacked=True).shape == (0,)


# --- errors --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["", "votes", "vote@", "vote@x", "vote@-1", "vote@1.5", "worst-of-x", "worst-of-N",
             "Vote", "vote@5 ", "vote@٣", "mean_logit"],
)  # fmt: skip
def test_nonsense_is_no_rule(text: str) -> None:
    with pytest.raises(UsageError, match=r"is no decision rule. Write single, vote, vote@R"):
        parse_rule(text)


@pytest.mark.parametrize("text", ["vote@0", "worst-of-0"])
def test_no_draws_decide_nothing(text: str) -> None:
    with pytest.raises(UsageError, match=r"it takes 1 or more"):
        parse_rule(text)


@pytest.mark.parametrize("text", ["single", "vote", "vote@5", "mean-logit", "worst-of-10"])
def test_a_rule_is_written_as_it_is_read(text: str) -> None:
    assert str(parse_rule(text)) == text
    assert parse_rule(text).describe().startswith(f"{text}: ")


@pytest.mark.parametrize("rule", ["vote@51", "worst-of-51"])
def test_more_draws_than_are_stored(rule: str) -> None:
    with pytest.raises(UsageError, match=r"51 draws and 50 are stored.*--draws=51"):
        share([40, 10], rule)


def test_without_logits_there_is_no_mean_logit() -> None:
    with pytest.raises(UsageError, match=r"no logits are stored.*Judge it again"):
        share([4, 0], "mean-logit")
    half = frame([[4, 0]] * 2, logits=[np.array([1.0, 0.0]), None])
    with pytest.raises(UsageError, match="no logits are stored"):
        right(half, Rule("mean-logit"), attacked=True)


@pytest.mark.parametrize("rule", ["single", "vote@2", "mean-logit", "worst-of-2"])
def test_unequal_draws_have_a_verdict_and_no_shares(rule: str) -> None:
    votes = frame([[4, 0], [5, 5]])
    assert right(votes, Rule("vote"), attacked=True).tolist() == [1.0, 0.0]
    with pytest.raises(UsageError, match=r"judged sequentially.*Judge it with all draws"):
        right(votes, parse_rule(rule), attacked=True)


# --- tables by a rule ----------------------------------------------------------------------


Keep = Callable[..., str]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


@pytest.fixture
def keep(store: Store) -> Keep:
    def keep(
        clean: Votes, votes: Votes, *, attack: str = "pgd", draws: int = 4,
        dataset: str = "digits", legal: bool = True, **more: Any,
    ) -> str:  # fmt: skip
        cell = Cell(
            dataset, "d", len(votes), 4, Part("small_cnn", {}, 1), Part("ebm", {}, 1),
            Part(attack, {}, 1), ThreatModel(Norm.LINF, Fraction(1, 10), Access.FULL), 0, draws,
            **more,
        )  # fmt: skip
        won = [np.array([row[0] > max(row[1:]) for row in rows]) for rows in (clean, votes)]
        rows = frame(
            votes, clean_votes=[np.array(row) for row in clean], legal=legal,
            clean=won[0], robust=won[0] & (won[1] | (not legal)),
        )  # fmt: skip
        provenance = {
            "attack passes": {}, "judge passes": {}, "attack seconds": 0.0,
            "judge seconds": 0.0, "flags": [], "commit": None, "date": "",
        }  # fmt: skip
        store.open(cell, NOTHING_SET)
        store.append(cell, 0, {name: list(rows[name]) for name in rows}, provenance)
        store.finish(cell, lambda shards: shards[0])
        return cell.key()

    return keep


CLEAN: Votes = [[4, 0], [3, 1]]


def test_clean_and_robust_go_by_the_rule_and_nothing_else_does(
    store: Store, keep: Keep
) -> None:
    keep(CLEAN, [[3, 1], [1, 3]])
    (before,) = collect(store).to_dict("records")
    (row,) = decided(collect(store), store, Rule("single")).to_dict("records")
    assert (before["clean"], before["robust"]) == (100.0, 50.0)
    assert (row["clean"], row["robust"]) == (87.5, 50.0)
    (row,) = decided(collect(store), store, Rule("worst-of-", 2)).to_dict("records")
    assert (row["clean"], row["robust"]) == (75.0, 25.0)
    assert row["robust_low"] < 25 < row["robust_high"]
    assert row["rule"] == "worst-of-2"
    changed = {
        name
        for name in before
        if before[name] != row[name] and not (pd.isna(before[name]) and pd.isna(row[name]))
    }
    assert changed <= {f"{kind}{end}" for kind in ("clean", "robust")
                       for end in ("", "_low", "_high")}  # fmt: skip


def test_the_vote_is_the_table_as_it_was(store: Store, keep: Keep) -> None:
    """Right clean and attacked, also where only the attacked image is voted right."""
    keep([[1, 3], [3, 1]], [[4, 0], [4, 0]])
    plain = collect(store)
    pd.testing.assert_frame_equal(
        decided(plain, store, Rule("vote")).drop(columns="rule"), plain, check_dtype=False
    )
    assert plain["robust"].tolist() == [50.0]


def test_the_worst_case_is_the_minimum_of_probabilities_per_image(
    store: Store, keep: Keep
) -> None:
    keep(CLEAN, [[3, 1], [1, 3]])
    keep(CLEAN, [[2, 2], [2, 2]], attack="noise")
    rows = decided(collect(store), store, Rule("single"))
    worst = with_worst_case(rows, store, Rule("single")).iloc[-1]
    assert worst["attack"] == "worst case"
    assert worst["robust"] == 100 * (0.5 + 0.25) / 2
    assert worst["clean"] == 87.5
    assert worst["rule"] == "single"


def test_an_illegal_image_is_worth_what_the_clean_one_is(store: Store, keep: Keep) -> None:
    key = keep(CLEAN, [[0, 4], [0, 4]], legal=False)
    assert read_outcomes(store, key, Rule("single"))["robust"].tolist() == [1.0, 0.75]
    (row,) = decided(collect(store), store, Rule("single")).to_dict("records")
    assert row["state"] == "void"
    assert pd.isna(row["robust"]), "void means that nothing was measured"


def test_rows_without_outcomes_stay(store: Store, keep: Keep) -> None:
    keep(CLEAN, CLEAN)
    skipped = Cell("digits", "d", 2, 4, Part("small_cnn", {}, 1), Part("jpeg", {}, 1),
                   Part("pgd", {}, 1), ThreatModel(Norm.LINF, None, Access.FULL), 0, 4
                   )  # fmt: skip
    content = {**skipped.canonical(), **NOTHING_SET.stored()}
    store.skip(content, skipped.key(), "no gradient")
    rows = decided(collect(store), store, Rule("single"))
    assert sorted(rows["state"]) == ["done", "skipped"]


def test_sequential_cells_are_refused_by_name_even_where_draws_agree(
    store: Store, keep: Keep
) -> None:
    key = keep(CLEAN, CLEAN, draws=50, sequential=True)
    with pytest.raises(UsageError, match=rf"cell {key} \(ebm under pgd\).*all draws"):
        read_outcomes(store, key, Rule("single"))
    assert accuracies(read_outcomes(store, key, Rule("vote")))["robust"] == 100.0


def test_one_draw_that_was_asked_for_is_not_taken_for_no_noise(
    store: Store, keep: Keep
) -> None:
    key = keep([[1, 0]], [[1, 0]], draws=1)
    with pytest.raises(UsageError, match=r"not known whether the defense draws.*--draws=5"):
        read_outcomes(store, key, Rule("vote@", 5))
    assert read_outcomes(store, key, Rule("single"))["robust"].tolist() == [1.0]
    key = keep([[1, 0]], [[1, 0]], draws=50)
    assert read_outcomes(store, key, Rule("vote@", 5))["robust"].tolist() == [1.0]


# --- the command ---------------------------------------------------------------------------


def test_the_table_says_its_rule(bench: Bench, keep: Keep) -> None:
    keep(CLEAN, [[3, 1], [1, 3]])
    said = bench("table", "--rule=vote@2", "--worst-case")
    assert said.code == 0
    first, blank, head, *rest = said.out.splitlines()
    assert first.startswith("vote@2: expected vote of 2 of the stored draws")
    assert not blank
    assert head.startswith("| defense |")
    assert len(rest) == 3
    assert bench("table", "--rule=vote@2", "--format=latex").out.startswith("% vote@2: ")
    out = bench("table", "--rule=vote@2", "--format=csv", "--worst-case").out
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["rule"] for row in rows] == ["vote@2"] * 2
    assert [row["robust"] for row in rows] == ["25.0"] * 2
    assert "rule" not in bench("table", "--format=csv").out


def test_the_table_refuses_what_a_rule_cannot_say(bench: Bench, keep: Keep) -> None:
    keep(CLEAN, CLEAN)
    keep(CLEAN, CLEAN, dataset="mnist", sequential=True)
    faults = {"vote@0": "1 or more", "most": "Write single", "vote@5": "--draws=5",
              "mean-logit": "no clean_logits"}  # fmt: skip
    for rule, message in faults.items():
        said = bench("table", f"--rule={rule}", "--dataset=digits")
        is_one_clear_message(said, message, code=2)
    assert "judged sequentially" in bench("table", "--rule=single", "--dataset=mnist").err
    # One row that cannot be decided does not hide the others: it is empty and says why.
    said = bench("table", "--rule=single", "--format=csv", "--worst-case")
    rows = {row["dataset"]: row for row in csv.DictReader(io.StringIO(said.out))}
    assert said.code == 0
    assert rows["digits"]["robust"]
    assert not rows["mnist"]["robust"] + rows["mnist"]["clean"]
    assert "judged sequentially" in rows["mnist"]["note"]


@pytest.mark.parametrize("text", ["vote@" + "9" * 5000, "worst-of-" + "1" * 30, "x" * 5000])
def test_a_rule_of_thousands_of_digits_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="Write single") as caught:
        parse_rule(text)
    assert len(str(caught.value)) < 200

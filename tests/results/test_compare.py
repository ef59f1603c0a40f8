"""Comparisons of cells and defenses whose outcomes are written by hand."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from bench.core.threat import Access, Norm, ThreatModel
from bench.errors import UsageError
from bench.results.cell import Cell, Part
from bench.results.compare import compare
from bench.results.paired import lines
from bench.results.settings import NOTHING_SET, Settings, parse_settings
from bench.results.stats import paired_bootstrap, paired_interval, wilson
from bench.results.store import Store

from ..command import Bench, is_one_clear_message

PROVENANCE: dict[str, Any] = {
    "attack passes": {}, "judge passes": {}, "attack seconds": 0.0, "judge seconds": 0.0,
    "flags": [], "commit": None, "date": "",
}  # fmt: skip
Keep = Callable[..., str]


def cell(
    defense: str = "ebm", attack: str = "pgd", *, n: int = 4, steps: int = 10, seed: int = 0,
    eps: str = "1/10", norm: Norm = Norm.LINF, access: Access = Access.FULL, draws: int = 1,
    data: str = "d", dataset: str = "digits", eot: int = 1, after: tuple[str, ...] = (),
    classifier: str = "small_cnn", sequential: bool = False,
) -> Cell:  # fmt: skip
    return Cell(
        dataset, data, n, 1000, Part(classifier, {}, 1), Part(defense, {"steps": steps}, 1),
        Part(attack, {"eot": eot}, 1), ThreatModel(norm, Fraction(eps), access), seed, draws,
        after=after, sequential=sequential,
    )  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


@pytest.fixture
def keep(store: Store) -> Keep:
    def keep(
        robust: str, *words: str, legal: bool = True, index: list[int] | None = None,
        settings: str = "", **asked: Any,
    ) -> str:  # fmt: skip
        """Keep a cell whose images are right ('1') or wrong ('0')."""
        kept = cell(*words, n=asked.pop("n", len(robust)), **asked)
        right = [digit == "1" for digit in robust]
        votes = [np.array([1, 0] if won else [0, 1]) for won in right]
        store.open(kept, Settings.of(parse_settings(settings.split())))
        rows = {
            "index": index or list(range(len(robust))), "label": [0] * len(robust),
            "distance": [0.0] * len(robust), "legal": [legal] * len(robust),
            "clean": [True] * len(robust), "robust": right,
            "clean_votes": [np.array([1, 0])] * len(robust), "votes": votes,
        }  # fmt: skip
        store.append(kept, 0, rows, PROVENANCE)
        store.finish(kept, lambda shards: shards[0])
        return kept.key()

    return keep


# --- two cells -----------------------------------------------------------------------------


def test_two_cells_pair_for_pair(store: Store, keep: Keep) -> None:
    first = "1" * 30 + "0" * 6 + "1" * 40 + "0" * 24
    second = "0" * 30 + "1" * 6 + "1" * 40 + "0" * 24
    one, two = keep(first), keep(second, "adv_ebm")
    found = compare(store, one, two)
    assert (found.n, found.b, found.c, found.right) == (100, 30, 6, (70, 46))
    assert found.difference == 0.24
    assert found.p == pytest.approx(binomtest(6, 36).pvalue)
    assert found.significant
    pairs = [[int(digit) for digit in side] for side in (first, second)]
    assert found.interval == paired_bootstrap(*pairs, seed=0)
    assert found.interval_method == "paired bootstrap"
    assert found.unpaired == 0


def test_turning_the_sides_turns_the_difference(store: Store, keep: Keep) -> None:
    one, two = keep("1" * 20 + "0" * 20), keep("0" * 15 + "1" * 8 + "0" * 17, "adv_ebm")
    there, back = compare(store, one, two), compare(store, two, one)
    assert (there.b, there.c, there.difference) == (back.c, back.b, -back.difference)
    assert there.p == back.p
    assert there.images_needed == back.images_needed
    low, high = back.interval
    assert there.interval == pytest.approx((-high, -low), abs=0.03)


def test_without_discordant_pairs_the_interval_still_has_a_width(
    store: Store, keep: Keep
) -> None:
    found = compare(store, keep("1100"), keep("1100", "adv_ebm"))
    assert found.interval == paired_interval(0, 0, 4)
    assert found.interval_method == "Bonett-Price"
    assert found.p == 1.0
    assert found.images_needed is None
    assert "none would do" in "\n".join(lines(found))
    assert lines(found)[-1] == "The difference is not significant at 5 %."


def test_images_are_paired_by_index_and_only_those_in_both_count(
    store: Store, keep: Keep
) -> None:
    one = keep("110", index=[5, 6, 7])
    two = keep("0110", "adv_ebm", index=[7, 6, 5, 8])
    found = compare(store, one, two)
    assert (found.n, found.b, found.c, found.unpaired) == (3, 0, 0, 1)


def test_the_same_defense_under_two_attacks(store: Store, keep: Keep) -> None:
    found = compare(store, keep("1111"), keep("1000", attack="noise"))
    assert (found.b, found.c) == (3, 0)
    assert "ebm under noise full" in found.second


def test_two_cells_are_named_with_all_in_which_they_differ(store: Store, keep: Keep) -> None:
    one = keep("1111", seed=1, settings="defense.steps=10")
    two = keep("1000", "adv_ebm", draws=5, classifier="other")
    found = compare(store, one, two)
    assert found.first == (
        "ebm under pgd full, classifier small_cnn, seed 1, draws 1, settings defense.steps=10 "
        f"[{one}]"
    )
    assert found.second == (
        f"adv_ebm under pgd full, classifier other, seed 0, draws 5 [{two}]"
    )


def test_joined_attacks_of_one_name_are_told_apart(store: Store, keep: Keep) -> None:
    for defense in ("ebm", "adv_ebm"):
        keep("1100", defense)
        keep("1100", defense, sequential=True)
        keep("1100", defense, "noise", eot=1)
        keep("1100", defense, "noise", eot=2)  # a changed default: the words are the same
    joined = compare(store, "ebm", "adv_ebm").joined
    assert len(set(joined)) == 4
    assert {"pgd full, judging all draws", "pgd full, judging sequential"} < {*joined}
    assert sum(name.startswith("noise full, key ") for name in joined) == 2


def test_a_prefix_names_a_cell(store: Store, keep: Keep) -> None:
    one, two = keep("1111"), keep("1000", "adv_ebm")
    assert compare(store, one[:6], two[:6]) == compare(store, one, two)


def test_a_prefix_of_two_cells_is_ambiguous(store: Store, keep: Keep) -> None:
    seen: dict[str, int] = {}  # four digits are soon met twice
    for seed in range(2000):
        digits = cell(n=4, seed=seed).key()[:4]
        if digits in seen:
            break
        seen[digits] = seed
    key, twin = keep("1111", seed=seen[digits]), keep("1111", seed=seed)
    assert key[:4] == twin[:4]
    with pytest.raises(UsageError, match=rf"'{key[:4]}' is ambiguous: .*{max(key, twin)}"):
        compare(store, key[:4], twin)
    assert compare(store, key[:12], twin[:12]).n == 4


def test_what_names_no_cell(store: Store, keep: Keep) -> None:
    with pytest.raises(UsageError, match="there are no results in"):
        compare(store, "abcd", "ef01")
    key = keep("1111")
    with pytest.raises(
        UsageError, match=r"no cell's key starts with 'zzzz'\. No defense with results.*ebm"
    ):
        compare(store, key, "zzzz")
    with pytest.raises(UsageError, match=r"4 or more of its characters"):
        compare(store, key[:3], "zzzz")
    with pytest.raises(UsageError, match="compared with itself"):
        compare(store, key, key)
    with pytest.raises(UsageError, match=f"both sides are the cell {key}"):
        compare(store, key, key[:8])
    with pytest.raises(UsageError, match="a defense and a cell"):
        compare(store, key, "ebm")
    other = keep("1111", "adv_ebm")
    with pytest.raises(UsageError, match=r"a key names its cell. Leave them out"):
        compare(store, key, other, attack="pgd")


def test_cells_without_a_comparable_outcome(store: Store, keep: Keep) -> None:
    key = keep("1111")
    with pytest.raises(UsageError, match="different data"):
        compare(store, key, keep("1111", "adv_ebm", data="other"))
    with pytest.raises(UsageError, match="no image in common"):
        compare(store, key, keep("11", "adv_ebm", index=[8, 9]))
    with pytest.raises(UsageError, match="is void: 4 images outside the ball"):
        compare(store, key, keep("1111", attack="noise", legal=False))
    begun = cell("jpeg")
    store.open(begun, NOTHING_SET)
    with pytest.raises(UsageError, match=f"cell {begun.key()} is not finished"):
        compare(store, key, begun.key())


# --- two defenses --------------------------------------------------------------------------


def test_defenses_are_compared_by_the_attacks_that_both_have(store: Store, keep: Keep) -> None:
    keep("1100")
    keep("0111", attack="noise", access=Access.QUERY, settings="attack.tries=3 defense.a=1")
    keep("0000", attack="square")  # the other never met it: it must not count
    keep("1110", "adv_ebm")
    keep("1111", "adv_ebm", "noise", access=Access.QUERY)
    found = compare(store, "ebm", "adv_ebm")
    assert (found.b, found.c, found.right) == (0, 2, (1, 3))
    assert found.joined == ("noise query attack.tries=3", "pgd full")
    (left,) = found.left_out
    assert left.startswith("ebm under square full, digits Linf 0.1, n 4")
    assert left.endswith("has no match")


@pytest.mark.parametrize(
    "other", [{"seed": 1}, {"draws": 2}, {"n": 5}, {"eot": 2}, {"access": Access.BPDA},
              {"eps": "2/10"}, {"norm": Norm.L2}, {"data": "x"}, {"attack": "noise"}],
    ids=lambda other: next(iter(other)),
)  # fmt: skip
def test_what_was_not_asked_alike_is_not_joined(
    store: Store, keep: Keep, other: dict[str, Any]
) -> None:
    keep("1100")
    alike = keep("1111", "adv_ebm")
    unlike = keep("0" * other.get("n", 4), "adv_ebm", **other)
    found = compare(store, "ebm", "adv_ebm")
    assert found.right == (2, 4)
    (left,) = found.left_out
    assert unlike in left
    (store.cell(alike) / "outcomes.parquet").unlink()
    with pytest.raises(UsageError, match="share no attack: cells are joined where data"):
        compare(store, "ebm", "adv_ebm")


def test_cells_after_cheaper_ones_pair_where_the_cheaper_ones_do(
    store: Store, keep: Keep
) -> None:
    for name, robust in (("ebm", "1100"), ("adv_ebm", "1110")):
        cheap = keep(robust, name)
        keep(robust[::-1], name, "square", after=(cheap,))
    found = compare(store, "ebm", "adv_ebm")
    assert len(found.joined) == 2
    assert found.left_out == ()
    assert found.right == (0, 2)


def test_a_void_cell_is_left_out_by_name(store: Store, keep: Keep) -> None:
    keep("1100")
    keep("1111", "adv_ebm")
    void = keep("1111", attack="noise", legal=False)
    keep("0000", "adv_ebm", "noise")
    found = compare(store, "ebm", "adv_ebm")
    assert found.right == (2, 4)
    assert any(void in left and "is void" in left for left in found.left_out)


def test_several_threats_need_a_choice(store: Store, keep: Keep) -> None:
    for eps, robust in (("8/255", "1111"), ("16/255", "1100")):
        keep(robust, eps=eps)
        keep("1110", "adv_ebm", eps=eps)
    with pytest.raises(UsageError, match=r"several kinds.*Choose with --dataset"):
        compare(store, "ebm", "adv_ebm")
    assert compare(store, "ebm", "adv_ebm", eps="16/510").right == (4, 3)
    assert compare(store, "ebm", "adv_ebm", eps="16/255", norm="linf").right == (2, 3)
    with pytest.raises(UsageError, match=r"no eps with results is called '0.1'.*8/255"):
        compare(store, "ebm", "adv_ebm", eps="0.1")
    with pytest.raises(UsageError, match="no norm with results is called 'L2'"):
        compare(store, "ebm", "adv_ebm", norm="L2")


def test_filters_by_attack_and_data_set(store: Store, keep: Keep) -> None:
    for attack, dataset in (("pgd", "digits"), ("noise", "digits"), ("pgd", "mnist")):
        keep("1100", "ebm", attack, dataset=dataset, data=dataset)
        keep("1111", "adv_ebm", attack, dataset=dataset, data=dataset)
    found = compare(store, "ebm", "adv_ebm", attack="noise")
    assert found.joined == ("noise full",)
    assert len(compare(store, "ebm", "adv_ebm", dataset="digits").joined) == 2
    with pytest.raises(UsageError, match=r"no dataset with results is called 'minst'.*mnist"):
        compare(store, "ebm", "adv_ebm", dataset="minst")


def test_two_defenses_of_one_name_are_told_apart_by_key(store: Store, keep: Keep) -> None:
    keep("1100")
    keep("1100", steps=20)
    keep("1111", "adv_ebm")
    with pytest.raises(UsageError, match=r"several defenses .* are called ebm") as caught:
        compare(store, "ebm", "adv_ebm")
    _, *kinds, last = str(caught.value).splitlines()
    assert [kind.split(",")[0] for kind in kinds] == ["  as it ships"] * 2
    assert "by their keys" in last


def test_a_name_alone_is_the_defense_as_it_ships(store: Store, keep: Keep) -> None:
    # A plan may set what the recipe has anyway: by content this is the defense that ships.
    keep("1100", attack="noise", settings="defense.steps=10 attack.eot=1")
    shipped = keep("1100")
    for steps in range(20, 27):
        keep("0000", steps=steps, settings=f"defense.steps={steps}")
    for attack in ("pgd", "noise"):
        keep("1110", "adv_ebm", attack)
    found = compare(store, "ebm", "adv_ebm")
    assert found.joined == ("noise full attack.eot=1", "pgd full")
    assert found.difference == -0.25
    shutil.rmtree(store.cell(shipped))
    shutil.rmtree(store.cell(keep("1100", "ebm", "noise")))
    with pytest.raises(UsageError) as caught:
        compare(store, "ebm", "adv_ebm")
    kinds = str(caught.value).splitlines()[1:-1]
    assert len(kinds) == 6
    assert kinds[0].startswith("  defense.steps=")
    assert kinds[-1] == "  and 2 more"


def test_a_defense_without_a_finished_cell(store: Store, keep: Keep) -> None:
    keep("1100")
    store.open(cell("jpeg"), NOTHING_SET)
    with pytest.raises(UsageError, match="defense jpeg has no finished cell"):
        compare(store, "ebm", "jpeg")


# --- the command ---------------------------------------------------------------------------


def test_the_command_says_everything_and_no_difference_alone(keep: Keep, bench: Bench) -> None:
    keep("1" * 50 + "0" * 50)
    keep("1" * 80 + "0" * 20, "adv_ebm")
    keep("0" * 100, "adv_ebm", "square")
    said = bench("compare", "adv_ebm", "ebm")
    assert (said.code, said.err) == (0, "")
    out = said.out
    low, high = (100 * bound for bound in wilson(80, 100))
    assert (
        f"adv_ebm, worst case per image: robust 80.0 % ({low:.1f}-{high:.1f}), 80 of 100" in out
    )
    assert "joined: pgd full" in out
    assert re.search("left out: adv_ebm under square", out)
    assert "discordant pairs: 30 robust only under the first, 0 only under the second" in out
    assert re.search(r"p = 1\.9e-09", out)
    assert re.search(r"images needed .* paired: \d+ ", out)
    assert out.endswith("The difference is significant at 5 %.\n")
    (line,) = [line for line in out.splitlines() if "points" in line]
    assert re.fullmatch(
        r"difference: \+30\.0 points \(95 % interval \+2\d\.\d to \+39\.0, paired bootstrap\)",
        line,
    )


def test_the_command_as_json(keep: Keep, bench: Bench) -> None:
    one, two = keep("1110"), keep("1000", "adv_ebm")
    found = json.loads(bench("compare", one, two, "--json").out)
    assert found["difference"] == 0.5
    assert found["interval"] == list(paired_interval(2, 0, 4))
    assert found["accuracy"] == [0.75, 0.25]
    assert found["accuracy_interval"] == [list(wilson(3, 4)), list(wilson(1, 4))]
    assert found["p"] == 0.5
    assert found["significant"] is False
    assert found["images_needed"] > 4


def test_the_command_tells_what_is_wrong(keep: Keep, bench: Bench) -> None:
    keep("1110")
    said = bench("compare", "ebm", "zzzz")
    assert said.out == ""
    is_one_clear_message(said, "no cell's key starts with 'zzzz'", code=2)

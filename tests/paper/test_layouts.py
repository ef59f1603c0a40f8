"""Tables of a paper, from hand-made outcomes whose gains are known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import stdev
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench.core.threat import Access, Norm, ThreatModel, parse_eps
from bench.paper.cells import Cells
from bench.paper.spec import Head
from bench.paper.tables import page, table
from bench.results.cell import Cell, Part
from bench.results.compare import compare
from bench.results.settings import Settings
from bench.results.stats import wilson
from bench.results.store import Store

PROVENANCE: dict[str, Any] = {
    "attack passes": {}, "judge passes": {}, "attack seconds": 0.0, "judge seconds": 0.0,
    "flags": [], "commit": None, "date": "2026-01-01T00:00:00Z",
}  # fmt: skip
GAIN = Head(title="t", layout="gain", baseline="ebm")
ATTACKS = Head(title="t", layout="attacks")
ABLATION = Head(title="t", layout="ablation", rows="training.share", columns="steps")
Keep = Callable[..., str]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


@pytest.fixture
def keep(store: Store) -> Keep:
    def keep(
        defense: str, robust: str, *, clean: str = "", attack: str = "autoattack",
        eps: str = "1/10", after: tuple[str, ...] = (), legal: bool = True, lam: float = 0.0,
        index: list[int] | None = None,
        **params: Any,
    ) -> str:  # fmt: skip
        """Keep a cell whose images are right ('1') or wrong ('0')."""
        training = {name: params.pop(name) for name in ("seed", "share") if name in params}
        if training:
            params["training"] = training
        n = len(robust)
        kept = Cell(
            "digits", "d", params.pop("n", n), 1000, Part("small_cnn", {}, 1, "c" * 64),
            Part(defense, params, 1, f"{defense}{params}"), Part(attack, {"lam": lam}, 1),
            ThreatModel(Norm.LINF, parse_eps(eps, Norm.LINF), Access.FULL),
            0, 1, after=after,
        )  # fmt: skip
        right = [digit == "1" for digit in robust]
        clean_right = [digit == "1" for digit in clean or "1" * n]
        votes = {True: np.array([1, 0]), False: np.array([0, 1])}
        store.open(kept, Settings.of({"attack": {"lam": lam}} if lam else {}))
        rows = {
            "index": index or list(range(n)), "label": [0] * n, "distance": [0.0] * n,
            "legal": [legal] * n, "clean": clean_right, "robust": right,
            "clean_votes": [votes[one] for one in clean_right],
            "votes": [votes[one] for one in right],
        }  # fmt: skip
        store.append(kept, 0, rows, PROVENANCE)
        store.finish(kept, lambda shards: shards[0])
        return kept.key()

    return keep


def rows(store: Store, keys: list[str], head: Head, **paper: float) -> list[dict[str, Any]]:
    found = table([(Cells(store, keys, {}), paper)], head).to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in found]


# --- gain ----------------------------------------------------------------------------------


def test_a_gain_in_closed_form_is_compare_s(store: Store, keep: Keep) -> None:
    own, other = "1" * 60 + "0" * 40, "0" * 30 + "1" * 36 + "0" * 34
    keys = [keep("ebm", other, clean="1" * 90 + "0" * 10), keep("adv_ebm", own)]
    base, row = rows(store, keys, GAIN, adv_ebm=12.31)
    assert (base["robust"], row["robust"], row["gain"]) == (36.0, 60.0, 24.0)
    assert (base["clean"], row["clean"], row["clean_gain"]) == (90.0, 100.0, 10.0)
    found = compare(store, keys[1], keys[0])
    assert [row["gain_low"], row["gain_high"]] == [round(100 * x, 2) for x in found.interval]
    assert row["gain_p"] == found.p
    assert row["gain_method"] == found.interval_method == "paired bootstrap"
    assert [row["robust_low"], row["robust_high"]] == [
        round(100 * side, 2) for side in wilson(60, 100)
    ]
    assert (row["paper"], row["baseline_key"]) == (12.31, keys[0])
    assert pd.isna(base["gain"])
    assert pd.isna(base["paper"])


def test_pairs_have_the_same_training_seed_and_then_the_same_steps(
    store: Store, keep: Keep
) -> None:
    robust = {0: "1000", 1: "1100", 2: "1110"}
    keys = [
        keep("ebm", robust[seed] if steps == 5 else "0000", seed=seed, steps=steps)
        for seed in robust
        for steps in (5, 10)
    ]
    keys += [keep("adv_ebm", "1111", seed=seed, steps=5) for seed in robust]
    found = [row for row in rows(store, keys, GAIN) if row["defense"] == "adv_ebm"]
    assert [row["gain"] for row in found if row["seeds"] == 1] == [75.0, 50.0, 25.0]
    assert not any(row["paired"] for row in found if row["seeds"] == 1)


def test_several_seeds_end_in_a_mean_with_a_spread_and_no_interval(
    store: Store, keep: Keep
) -> None:
    keys = [keep("ebm", ones, seed=seed) for seed, ones in enumerate(("1000", "1100", "1000"))]
    keys += [keep("adv_ebm", "1110", seed=seed) for seed in range(3)]
    *_, row = rows(store, keys, GAIN, adv_ebm=12.31)
    assert (row["defense"], row["seeds"], row["gain"]) == ("adv_ebm", 3, round(125 / 3, 2))
    assert row["gain_sd"] == round(stdev([50.0, 25.0, 50.0]), 2)
    assert (row["gain_min"], row["gain_max"]) == (25.0, 50.0)
    assert (row["robust"], row["paper"]) == (75.0, 12.31)
    assert pd.isna(row["gain_low"])
    assert pd.isna(row["gain_p"])
    assert pd.isna(row["robust_low"])
    heads, lines = page(table([(Cells(store, keys, {}), {})], GAIN), GAIN)
    assert "mean of 3" in lines[-1]
    assert "+41.7, sd 14.4, +25.0 to +50.0" in lines[-1][heads.index("gain")]


def test_a_mean_without_one_of_its_seeds_is_no_mean(store: Store, keep: Keep) -> None:
    keys = [keep("ebm", "1000", seed=seed) for seed in range(2)]
    keys += [keep("adv_ebm", "1110", seed=0), keep("adv_ebm", "1110", seed=1, legal=False)]
    *_, void, row = rows(store, keys, GAIN)
    assert (void["state"], row["state"]) == ("void", "incomplete")
    for name in ("clean", "robust", "robust_low", "gain"):
        assert pd.isna(void[name]), name
        assert pd.isna(row[name]), name


def test_a_partner_in_other_settings_is_named_and_several_are_none(
    store: Store, keep: Keep
) -> None:
    keys = [keep("ebm", "1000", seed=0, steps=30), keep("adv_ebm", "1110", seed=1, steps=10)]
    *_, row = rows(store, keys, GAIN)
    assert (row["gain"], row["paired"]) == (50.0, "the baseline has training.seed 0, steps 30")
    keys.append(keep("ebm", "1000", seed=2, steps=10))
    keys.append(keep("ebm", "1100", seed=3, steps=10))
    row = next(row for row in rows(store, keys, GAIN) if row["defense"] == "adv_ebm")
    assert pd.isna(row["gain"])
    assert "2 baselines" in row["paired"]


def test_what_has_no_setting_is_paired_with_a_single_baseline_alone(
    store: Store, keep: Keep
) -> None:
    keys = [keep("none", "0000"), keep("ebm", "1000", steps=10)]
    assert rows(store, keys, GAIN)[0]["gain"] == -25.0
    row, *_ = rows(store, [*keys, keep("ebm", "1100", steps=20)], GAIN)
    assert pd.isna(row["gain"])
    assert row["paired"] == ""


def test_another_ball_is_no_baseline(store: Store, keep: Keep) -> None:
    keys = [keep("ebm", "1000", eps="2/10"), keep("adv_ebm", "1110")]
    *_, row = rows(store, keys, GAIN)
    assert pd.isna(row["gain"])
    assert row["paired"] == "no baseline was measured in the same way"


# --- attacks -------------------------------------------------------------------------------


def test_worst_cases_are_per_image_and_never_join_the_unbounded(
    store: Store, keep: Keep
) -> None:
    keys = [
        keep("ebm", "1100", attack="adaptive", lam=0.1),
        keep("ebm", "0110", attack="adaptive", lam=1.0),
        keep("ebm", "1111", attack="pgd"),
        keep("ebm", "0001", attack="adaptive", lam=0.1, eps="inf"),
        keep("ebm", "1000", attack="adaptive", lam=1.0, eps="inf"),
    ]
    found = rows(store, keys, ATTACKS)
    said = [(row["eps"], row["attack"], row["robust"]) for row in found]
    assert said == [
        ("0.1", "adaptive", 50.0), ("0.1", "adaptive", 50.0), ("0.1", "pgd", 100.0),
        ("0.1", "adaptive, worst of 2", 25.0), ("0.1", "worst case", 25.0),
        ("inf", "adaptive", 25.0), ("inf", "adaptive", 25.0),
        ("inf", "adaptive, worst of 2", 0.0),
    ]  # fmt: skip
    assert found[4]["keys"].split() == keys[:3]


def test_a_ladder_has_its_worst_case_and_none_of_survivors_alone(
    store: Store, keep: Keep
) -> None:
    first = keep("ebm", "1101", attack="pgd")
    more = {"attack": "adaptive", "after": (first,), "n": 4, "index": [0, 1, 3]}
    keys = [first, keep("ebm", "101", lam=1.0, **more), keep("ebm", "110", lam=3.0, **more)]
    found = rows(store, keys, ATTACKS)
    said = [(row["attack"], row["robust"], row["attacked"]) for row in found]
    assert said == [
        ("pgd", 75.0, 4), ("adaptive", 50.0, 3), ("adaptive", 50.0, 3), ("worst case", 25.0, 4),
    ]  # fmt: skip


def test_a_worst_case_that_lacks_an_attack_has_no_number(store: Store, keep: Keep) -> None:
    keys = [keep("ebm", "1100", attack="pgd"), keep("ebm", "0110", attack="noise", legal=False)]
    *_, void, worst = rows(store, keys, ATTACKS)
    assert (void["state"], worst["state"]) == ("void", "incomplete")
    assert keys[1] in worst["note"]
    assert pd.isna(worst["robust"])


# --- ablation ------------------------------------------------------------------------------


def test_a_pivot_in_closed_form(store: Store, keep: Keep) -> None:
    keys = [
        keep("adv_ebm", "1" * right + "0" * (8 - right), share=share, steps=steps)
        for right, share, steps in ((8, 0.5, 10), (2, 0, 10), (4, 0.5, 5), (1, 0, 5))
    ]  # fmt: skip
    keys.append(keep("ebm", "11110000", steps=10))
    frame = table([(Cells(store, keys, {}), {})], ABLATION)
    assert page(frame, ABLATION) == (
        ["dataset", "defense", "training.share", "steps 5", "steps 10"],
        [
            ["digits", "adv_ebm", "0", "12.5 (100.0)", "25.0 (100.0)"],
            ["digits", "adv_ebm", "0.5", "50.0 (100.0)", "100.0 (100.0)"],
            ["digits", "ebm", "-", "", "50.0 (100.0)"],
        ],
    )

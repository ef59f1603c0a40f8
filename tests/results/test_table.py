"""Tables from hand-made votes, whose accuracies are known by counting."""

from __future__ import annotations

import io
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

import bench.results.rows
from bench.core.threat import Access, Norm, ThreatModel
from bench.results.cell import Cell, Part
from bench.results.files import read_json
from bench.results.locks import is_held
from bench.results.render import render, shown
from bench.results.rows import write_runs
from bench.results.settings import NOTHING_SET, Settings, parse_settings
from bench.results.store import Store
from bench.results.table import (
    COLUMNS,
    collect,
    with_worst_case,
)

Votes = list[list[int]]
PROVENANCE: dict[str, Any] = {
    "attack passes": {"classifier forward": 30, "classifier backward": 10},
    "judge passes": {"classifier forward": 20},
    "attack seconds": 1.25,
    "judge seconds": 0.5,
    "flags": [],
    "commit": "0123456789abcdef",
    "date": "2026-01-01T00:00:00Z",
}


def outcomes(
    clean_votes: Votes, votes: Votes, *, labels: list[int] | None = None, legal: bool = True
) -> pd.DataFrame:
    """Outcomes as the judge makes them; every label is 0 where none are given."""
    y = np.array(labels or [0] * len(votes))

    def elected(rows: Votes) -> np.ndarray:
        return np.array(
            [
                row[label] > max(v for k, v in enumerate(row) if k != label)
                for row, label in zip(rows, y, strict=True)
            ]
        )

    return pd.DataFrame(
        {
            "index": range(len(votes)),
            "label": y,
            "distance": 0.1,
            "legal": legal,
            "clean": elected(clean_votes),
            "robust": elected(clean_votes) & (elected(votes) | (not legal)),
            "clean_votes": [np.array(row) for row in clean_votes],
            "votes": [np.array(row) for row in votes],
        }
    )


RIGHT, WRONG = [1, 0], [0, 1]


def chosen(*pairs: str) -> Settings:
    return Settings.of(parse_settings([*pairs]))


# --- cells in a store ----------------------------------------------------------------------


def cell(
    attack: str = "pgd", *, defense: str = "ebm", n: int = 4, steps: int = 10, seed: int = 0,
    checkpoint: str | None = "a" * 64, eps: str = "1/10", access: Access = Access.FULL,
    classifier: str = "b" * 64, draws: int = 1,
) -> Cell:  # fmt: skip
    return Cell(
        dataset="digits",
        data="d",
        n=n,
        shard=4,
        classifier=Part("small_cnn", {"width": 8}, 1, classifier),
        defense=Part(defense, {"steps": steps}, 1, checkpoint),
        attack=Part(attack, {}, 1),
        threat=ThreatModel(Norm.LINF, Fraction(eps), access),
        seed=seed,
        draws=draws,
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


@pytest.fixture
def keep(store: Store) -> Callable[..., str]:
    def keep(
        cell: Cell, votes: Votes, *, settings: Settings = NOTHING_SET,
        clean: Votes | None = None, legal: bool = True, **provenance: Any,
    ) -> str:  # fmt: skip
        store.open(cell, settings)
        rows = outcomes(clean or [RIGHT] * len(votes), votes, legal=legal)
        columns: dict[str, Any] = {name: list(rows[name]) for name in rows}
        store.append(cell, 0, columns, {**PROVENANCE, **provenance})
        store.finish(cell, lambda shards: shards[0])
        return cell.key()

    return keep


HALF, OTHER_HALF = [RIGHT, RIGHT, WRONG, WRONG], [WRONG, RIGHT, RIGHT, WRONG]
Keep = Callable[..., str]


def worst(store: Store) -> pd.DataFrame:
    rows = with_worst_case(collect(store), store)
    return rows[rows["attack"] == "worst case"].reset_index(drop=True)


def test_a_row_of_a_finished_cell(store: Store, keep: Keep) -> None:
    key = keep(cell(), HALF, settings=chosen("defense.steps=10"), flags=["masked", "odd"])
    (row,) = collect(store).to_dict("records")
    assert row["key"] == key
    assert (row["state"], row["note"]) == ("done", "masked; odd")
    assert (row["clean"], row["robust"]) == (100.0, 50.0)
    assert row["passes"] == 60 / 4
    assert row["seconds"] == pytest.approx(1.75, abs=0.06)
    assert row["settings"] == "defense.steps=10"
    assert (row["eps"], row["norm"], row["access"]) == ("0.1", "Linf", "full")
    assert row["checkpoint"] == "a" * 16


def test_runs_csv_is_rebuilt_from_the_cells_and_reads_back(store: Store, keep: Keep) -> None:
    keep(cell(), HALF, flags=['a "flag", with a comma\nand a line'])
    keep(cell("noise"), OTHER_HALF)
    write_runs(store)
    frame, first = collect(store), store.runs.read_bytes()
    read = pd.read_csv(
        store.runs, dtype=frame.dtypes.to_dict(), keep_default_na=False,
        na_values={"certified": [""]},
    )  # fmt: skip
    pd.testing.assert_frame_equal(read, frame)
    store.runs.unlink()
    write_runs(store)
    assert store.runs.read_bytes() == first
    assert tuple(read.columns) == COLUMNS


def test_an_empty_store_gives_an_empty_table(store: Store) -> None:
    assert collect(store).empty
    assert tuple(collect(store).columns) == COLUMNS


def test_runs_csv_is_collected_and_written_under_one_claim(
    store: Store, keep: Keep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise who collected first may write last, and drop the rows in between."""
    keep(cell("pgd"), HALF)
    held = []

    def noted(made: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            held.append(is_held(store.claim("runs.csv")))
            return made(*given)

        return call

    for name in ("all_rows", "csv_text"):
        made = getattr(bench.results.rows, name)
        monkeypatch.setattr(bench.results.rows, name, noted(made))
    write_runs(store)
    assert held == [True, True]
    assert not is_held(store.claim("runs.csv"))


def test_states_without_outcomes(store: Store) -> None:
    store.open(cell("pgd"), NOTHING_SET)
    noise = cell("noise")
    store.fail({**noise.canonical(), **NOTHING_SET.stored()}, noise.key(), "it burnt", "run")
    square = cell("square")
    store.skip({**square.canonical(), **NOTHING_SET.stored()}, square.key(), "no gradient")
    rows = {row["attack"]: row for row in collect(store).to_dict("records")}
    assert rows["pgd"]["state"] == "unfinished"
    assert (rows["noise"]["state"], rows["noise"]["note"]) == ("failed", "it burnt")
    assert (rows["square"]["state"], rows["square"]["note"]) == ("skipped", "no gradient")
    assert worst(store).empty
    text = render(collect(store), "md")
    assert "| unfinished |" in text
    assert not any(word in text for word in ("NA", "nan", "None"))


@pytest.mark.parametrize("finished", [True, False])
def test_a_table_is_made_while_another_process_mends_a_failure(
    store: Store, keep: Keep, monkeypatch: pytest.MonkeyPatch, finished: bool
) -> None:
    keep(cell("pgd"), HALF)
    mended = cell("noise")
    store.fail({**mended.canonical(), **NOTHING_SET.stored()}, mended.key(), "it burnt", "run")

    def late(path: Path) -> dict[str, Any]:
        if path.name == "failed.json":
            if finished:
                keep(mended, HALF)
            else:
                store.forget(mended.key())
        return read_json(path)

    monkeypatch.setattr("bench.results.cell_row.read_json", late)
    assert list(collect(store)["state"]) == ["done"] * (1 + finished)


def test_the_worst_case_joins_attacks_and_accesses(store: Store, keep: Keep) -> None:
    keep(cell("pgd"), HALF, settings=chosen("attack.eot=3", "defense.steps=10"))
    keep(cell("noise", access=Access.QUERY), OTHER_HALF)
    (row,) = worst(store).to_dict("records")
    ci = binomtest(1, 4).proportion_ci(method="wilson")
    assert row["robust"] == 25.0
    assert row["robust_low"] == pytest.approx(100 * ci.low, abs=0.005)
    assert row["robust_high"] == pytest.approx(100 * ci.high, abs=0.005)
    assert row["clean"] == 100.0
    assert row["access"] == "full/query"
    assert "pgd" in row["note"]
    assert "noise" in row["note"]
    assert row["passes"] == 30
    assert "attack" not in row["settings"]


@pytest.mark.parametrize(
    "other",
    [{"steps": 11}, {"checkpoint": "c" * 64}, {"classifier": "c" * 64}, {"seed": 1},
     {"eps": "2/10"}, {"defense": "adv_ebm"}, {"draws": 2}, {"n": 3}],
    ids=lambda other: next(iter(other)),
)  # fmt: skip
def test_what_was_not_measured_alike_is_not_joined(
    store: Store, keep: Keep, other: dict[str, Any]
) -> None:
    keep(cell("pgd"), HALF)
    keep(cell("noise", **other), OTHER_HALF[: other.get("n", 4)])
    rows = worst(store)
    assert len(rows) == 2
    assert 25.0 not in list(rows["robust"])


def test_worst_cases_of_two_classifiers_and_seeds_are_told_apart(
    store: Store, keep: Keep
) -> None:
    for classifier in ("b", "c"):
        for seed in (0, 1):
            for attack in ("pgd", "noise"):
                keep(cell(attack, seed=seed, classifier=classifier * 64), HALF)
    rows = worst(store)
    assert set(rows["judging"]) == {"all draws"}
    assert all(len(keys.split()) == 2 for keys in rows["key"])
    text = render(rows, "md").splitlines()[2:]
    assert len(set(text)) == 4


def test_a_void_cell_joins_nothing_and_counts_for_nothing(store: Store, keep: Keep) -> None:
    keep(cell("pgd"), HALF)
    keep(cell("noise"), [WRONG] * 4, legal=False)
    rows = collect(store)
    assert sorted(rows["state"]) == ["done", "void"]
    (void,) = rows[rows["state"] == "void"].to_dict("records")
    assert "4 images outside the ball" in void["note"]
    assert all(pd.isna(void[name]) for name in void if name.startswith(("clean", "robust")))
    assert void["audit"] == "none"
    (row,) = worst(store).to_dict("records")
    assert row["robust"] == 50.0
    assert "noise" not in row["note"]


def test_rows_have_an_order_of_their_own(store: Store, keep: Keep) -> None:
    for attack in ("square", "noise", "pgd"):
        keep(cell(attack), HALF)
    assert list(collect(store)["attack"]) == ["noise", "pgd", "square"]


# --- rendering -----------------------------------------------------------------------------


def test_csv_has_every_column_and_number(store: Store, keep: Keep) -> None:
    keep(cell("auto_attack"), HALF)
    frame = collect(store)
    read = pd.read_csv(io.StringIO(render(frame, "csv")), keep_default_na=False)
    assert tuple(read.columns) == COLUMNS
    assert read["robust"].tolist() == [50.0]


def test_markdown_and_latex_say_the_same(store: Store, keep: Keep) -> None:
    keep(cell("auto_attack"), HALF, settings=Settings((("defense.a_b", "5% & #3"),)))
    square = cell("square")
    store.skip({**square.canonical(), **NOTHING_SET.stored()}, square.key(), "no gradient")
    frame = with_worst_case(collect(store), store)
    markdown = render(frame, "md").splitlines()
    assert len(markdown) == 2 + 3
    assert "| auto_attack |" in markdown[2]
    assert "nan" not in render(frame, "md").lower()
    latex = render(frame, "latex")
    assert r"auto\_attack" in latex
    assert r"a\_b='5\% \& \#3'" in latex
    assert "nan" not in latex.lower()
    body = latex.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    for line, row in zip(body, markdown[2:], strict=True):
        cells = [part.strip() for part in line.removesuffix(r"\\").split(" & ")]
        plain = [part.strip() for part in row.strip("|").split("|")]
        assert cells[0] == plain[0]
        assert "50.0" not in plain or "50.0" in cells


@pytest.mark.parametrize("special", ["$", "{", "}", "^", "~", "\\"])
def test_latex_escapes_every_special_character(store: Store, keep: Keep, special: str) -> None:
    """A setting is whatever a user typed: --set defense.name=... may hold any of them."""
    keep(cell(), HALF, settings=Settings((("defense.x", f"a{special}b"),)))
    latex = render(collect(store), "latex")
    assert f"a{special}b" not in latex


@pytest.mark.parametrize("special", ["|", "\n"])
def test_markdown_cells_stay_cells(store: Store, keep: Keep, special: str) -> None:
    keep(cell(), HALF, settings=Settings((("defense.x", f"a{special}b"),)))
    lines = render(collect(store), "md").splitlines()
    assert len(lines) == 3
    assert len({line.replace(r"\|", "").count("|") for line in lines}) == 1


def test_the_page_drops_settings_that_nobody_set(store: Store, keep: Keep) -> None:
    keep(cell(), HALF)
    assert "settings" not in shown(collect(store))
    keep(cell("noise"), HALF, settings=chosen("attack.tries=3"))
    assert "settings" in shown(collect(store))


@pytest.mark.parametrize(
    ("state", "accuracy", "robust", "said"),
    [
        ("stands", {"robust_high": 20.0}, 18.0, "stands"),
        ("stands", {"robust_high": 20.0}, 56.0, "upper bound"),  # a weak attack's row
        ("stands", None, 5.0, "upper bound"),  # the audit has no number of its own
        ("void", {"robust_high": 20.0}, 5.0, "void"),
    ],
)
def test_a_row_stands_only_where_the_audit_s_own_attacks_left_as_much(
    state: str, accuracy: dict[str, float] | None, robust: float, said: str
) -> None:
    from bench.results.rows import _audited

    assert _audited({"state": state, "accuracy": accuracy}, robust) == said
    assert _audited(None, robust) == "none"

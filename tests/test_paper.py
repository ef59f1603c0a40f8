"""Tables of a paper: from hand-made outcomes whose gains are known, and by the command."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import stdev
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench.cell import Cell, Part
from bench.compare import compare
from bench.paper.cells import Cells
from bench.paper.spec import Head
from bench.paper.tables import page, table
from bench.stats import wilson
from bench.store import Store
from bench.threat import Access, Norm, ThreatModel, parse_eps

from .command import Bench, no_work

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
        store.open(kept, f"attack.lam={lam}" if lam else "")
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


# --- the command ---------------------------------------------------------------------------

TINY = "classifiers: {name: small_cnn, set: {training: {epochs: 1}}}, n: 12, draws: 5"
TABLE = f"""
title: Digits & co_1
layout: gain
baseline: none
text: Under the title.
runs:
  - {{defenses: [none, gaussian, jpeg], attacks: {{name: noise, set: {{tries: 3}}}},
     threats: {{eps: 0.3}}, {TINY}, paper: {{gaussian: 12.31}}}}
  - {{defenses: [none, gaussian], attacks: [{{name: noise, set: {{tries: 1}}}}],
     threats: {{norm: L2, eps: 2}}, {TINY}}}
"""
FILES = ("csv", "md", "tex")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "first.yaml").write_text(TABLE)
    return tmp_path / "first.yaml"


def texts(folder: Path, stem: str = "first") -> list[bytes]:
    return [(folder / f"{stem}.{suffix}").read_bytes() for suffix in FILES]


def test_the_command_s_numbers_are_compare_s_and_rebuild_writes_the_same_bytes(
    bench: Bench, tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = bench("paper", file.name)
    assert said.code == 0, said
    folder = tmp_path / "results" / "paper"
    with (folder / "first.csv").open(newline="") as lines:
        found = list(csv.DictReader(lines))
    assert len(found) == 5
    for row in found:
        if row["defense"] == "none":
            continue
        told = bench("compare", row["keys"], row["baseline_key"], "--json")
        other = json.loads(told.out)
        assert float(row["gain"]) == round(100 * other["difference"], 2)
        assert float(row["gain_low"]) == round(100 * other["interval"][0], 2)
        assert float(row["gain_p"]) == other["p"]
    latex = (folder / "first.tex").read_text()
    assert r"\toprule" in latex
    assert "% Digits & co_1" in latex
    markdown = (folder / "first.md").read_text()
    assert markdown.startswith("# Digits & co_1\n\nUnder the title.\n\n| dataset |")
    assert "`bench paper first.yaml`" in markdown
    sidecar = json.loads((folder / "first.json").read_text())
    assert [row["keys"] for row in sidecar["rows of the table"]] == [[r["keys"]] for r in found]

    # Nothing but the cells' outcomes and the sidecar, in a folder of their own.
    bare = tmp_path / "bare"
    shutil.copytree(tmp_path / "results" / "cells", bare / "cells")
    (bare / "paper").mkdir()
    shutil.copy(folder / "first.json", bare / "paper")
    shutil.rmtree(tmp_path / "results" / "checkpoints")
    no_work(monkeypatch)
    assert bench("paper", "--rebuild", "--results", str(bare)).code == 0
    assert texts(bare / "paper") == texts(folder)

    gone = found[1]["keys"]
    shutil.rmtree(bare / "cells" / gone)
    said = bench("paper", "first.yaml", "--rebuild", "--results", str(bare))
    assert said.code == 1
    assert gone in said.err
    assert "`bench paper first.yaml`" in said.err


def test_killed_and_resumed_it_ends_in_the_same_table(
    bench: Bench, tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bench("paper", file.name).code == 0
    before = texts(tmp_path / "results" / "paper")
    again = tmp_path / "again"
    from bench import matrix

    attempt, calls = matrix.attempt, []

    def killed(*args: Any, **options: Any) -> Any:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return attempt(*args, **options)

    monkeypatch.setattr(matrix, "attempt", killed)
    assert bench("paper", file.name, "--results", str(again)).code == 130
    assert not (again / "paper").exists(), "half a table is no table"
    assert len(list((again / "cells").glob("*/outcomes.parquet"))) == 2
    monkeypatch.setattr(matrix, "attempt", attempt)
    assert bench("paper", file.name, "--results", str(again)).code == 0
    assert texts(again / "paper") == before


def test_without_its_data_a_table_keeps_what_was_measured_and_shows_what_was_not(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = f"{{defenses: none, attacks: noise, threats: {{eps: 0.1}}, {TINY}"
    (tmp_path / "both.yaml").write_text(
        f"title: Both\nlayout: attacks\nruns:\n  - {one}}}\n  - {one}, datasets: mnist}}\n"
    )
    from bench import data
    from bench.errors import DataError

    def offline(folder: str, root: Path) -> None:
        raise DataError("there is no network in /some/where/paper-data")

    monkeypatch.setattr(data, "_download", offline)
    said = bench("paper", "both.yaml", "--dry-run")
    assert said.code == 1
    assert said.out.count("cost per image") == 1
    assert "both.yaml, run 2: there is no network in " in said.err
    said = bench("paper", "both.yaml")
    assert said.code == 1
    text = (tmp_path / "results" / "paper" / "both.md").read_text()
    assert "| failed |" in text
    notes = (tmp_path / "results" / "paper" / "both.csv").read_text()
    assert "there is no network in paper-data" in notes, "of a path the last part"
    assert "| mnist |" in text
    assert "| digits |" in text
    before = texts(tmp_path / "results" / "paper", "both")
    assert bench("paper", "--rebuild").code == 1, "a table with a hole is not done"
    assert texts(tmp_path / "results" / "paper", "both") == before

    monkeypatch.setattr(
        "bench.prepare.load_test", lambda *args, **options: offline("", tmp_path)
    )
    said = bench("paper", "both.yaml")
    assert "keeps cell" in said.err
    kept = (tmp_path / "results" / "paper" / "both.md").read_text()
    assert kept.count("| failed |") == text.count("| failed |")


def test_every_fault_of_every_file_is_told_at_once(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(
        "title: One\nlayout: gain\ncolor: red\nrows: steps\nruns:\n"
        "  - {defenses: [nonne], attacks: noise, threats: {eps: 0.1}}\n"
        "  - {defenses: [none], attacks: noise, threats: {eps: x}, paper: {ebm: 3}, nn: 3}\n"
    )
    (tmp_path / "two.yaml").write_text(
        "title: Two\nlayout: gain\nrows: steps\nbaseline: ebm\nruns:\n"
        "  - {defenses: [none], attacks: noise, threats: {eps: 0.1},\n"
        "     paper: {adv_ebm: 3}, ladder: true}\n"
    )
    said = bench("paper", "one.yaml", "two.yaml")
    assert said.code == 2
    for fault in (
        "one.yaml: color: ", "one.yaml, run 1: no defense is called 'nonne'",
        "one.yaml, run 2: there is no key 'nn'",
        "two.yaml: 'rows' is a key of the layout ablation alone",
        "two.yaml, run 1: paper names adv_ebm", "the baseline ebm is not among", "ladder: true",
    ):  # fmt: skip
        assert fault in said.err, said.err
    assert not (tmp_path / "results").exists()


def test_a_parameter_that_no_defense_has_is_a_fault_before_any_work(
    bench: Bench, tmp_path: Path
) -> None:
    (tmp_path / "a.yaml").write_text(
        "title: A\nlayout: ablation\nrows: sigma\ncolumns: stepps\nruns:\n"
        "  - {defenses: gaussian, attacks: noise, threats: {eps: 0.1}}\n"
    )
    said = bench("paper", "a.yaml")
    assert said.code == 2
    assert "columns: no defense has a parameter 'stepps'" in said.err
    assert "sigma'" not in said.err


def test_nothing_to_do_is_said(bench: Bench, tmp_path: Path) -> None:
    assert "there is no table file in plans/paper" in bench("paper").err
    assert "there is nothing to rebuild" in bench("paper", "--rebuild").err
    (tmp_path / "other").mkdir()
    for folder in (tmp_path, tmp_path / "other"):
        (folder / "first.yaml").write_text(TABLE)
    said = bench("paper", "first.yaml", "other/first.yaml")
    assert said.code == 2
    assert "several table files are called first" in said.err


def test_a_dry_run_lists_the_cells_and_writes_nothing(
    bench: Bench, tmp_path: Path, file: Path
) -> None:
    said = bench("paper", file.name, "--dry-run")
    assert said.code == 0
    assert said.out.count("cost per image") == 5
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("path", sorted(Path(__file__).parents[1].glob("plans/paper/*.yaml")))
def test_the_tables_that_ship_are_sound(path: Path) -> None:
    from bench.paper.spec import read_table

    assert read_table(path).head.title

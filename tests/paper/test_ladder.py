"""The layout of ladders: what is left of each defense, level by level."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bench.results.store import read_rows

from ..command import Bench
from .test_museum import table

PLAN = """
title: A ladder
layout: ladder
runs:
  - datasets: mine.npz
    classifiers: {name: small_cnn, set: {width: 4, training.epochs: 20}}
    defenses: [none, jpeg, gaussian]
    attacks:
      - {name: noise, access: transfer, set: {tries: 1}}
      - {name: pgd, access: bpda, set: {steps: 2, eot: 1}}
      - {name: pgd, access: full, set: {steps: 2, eot: 1}}
      - {name: apgd, access: full, set: {steps: 2, eot: 1, surrogate: 2}}
      - {name: square, set: {queries: 5, eot: 1}}
    threats: {norm: Linf, eps: 0.3}
    n: 40
    draws: 3
    ladder: listed
"""


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 128, (120, 8, 8), dtype=np.uint8), np.arange(120) % 3
    x[np.arange(120), 2 * y] = 160  # a bright row tells the class
    np.savez(tmp_path / "mine.npz", x=x[:60], y=y[:60], x_train=x, y_train=y)
    path = tmp_path / "levels.yaml"
    path.write_text(PLAN)
    return path


def test_a_level_is_what_its_attacks_and_those_before_it_left(
    bench: Bench, plan: Path, tmp_path: Path
) -> None:
    said = bench("paper", str(plan))
    assert said.code == 0, said.err
    folder = tmp_path / "results" / "paper"
    rows = {row["defense"]: row for row in table((folder / "levels.md").read_text())}
    assert list(rows) == ["none", "jpeg", "gaussian"]
    broken: dict[tuple[str, str], set[int]] = {}
    for run in json.loads((folder / "levels.json").read_text())["runs"]:
        for key in (cell["key"] for cell in run["cells"]):
            path = tmp_path / "results" / "cells" / key
            cell = json.loads((path / "cell.json").read_text())
            where = cell["defense"]["name"], cell["access"]
            if not (path / "skipped.json").exists():
                found = read_rows(path / "outcomes.parquet")
                broken[where] = broken.get(where, set()) | set(found["index"][~found["robust"]])
    reasons = [path.read_text() for path in (tmp_path / "results").rglob("skipped.json")]
    assert sum("no cheaper process, which attack.surrogate" in why for why in reasons) == 2
    differ = 0
    for name, row in rows.items():
        own = {access: where for (defense, access), where in broken.items() if defense == name}
        assert ("full" in own) == (name != "jpeg"), "jpeg has no gradient"
        wrong: set[int] = set()
        for access in ("transfer", "bpda", "full"):
            wrong = wrong | own.get(access, set())
            left = f"{100 * (1 - len(wrong) / 40):.1f}"
            assert row[access].split(" ")[0] == (left if access in own else "")
        worst = set().union(*own.values())
        assert row["worst case"].split(" ")[0] == f"{100 * (1 - len(worst) / 40):.1f}"
        differ += len(worst) > len(own["transfer"])
    assert differ, "no later attack broke anything: the levels were not told apart"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert bench("paper", "--rebuild").code == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_row_without_a_number_says_why(bench: Bench, plan: Path, tmp_path: Path) -> None:
    plan.write_text(PLAN.replace("[none, jpeg, gaussian]", "[none, lippe_ebm]"))
    assert bench("paper", str(plan)).code == 1
    none, lippe = table((tmp_path / "results" / "paper" / "levels.md").read_text())
    assert none["state"] == "done"
    assert (lippe["worst case"], lippe["transfer"]) == ("", "")
    assert lippe["note"]


def test_claims_stand_beside_a_ladder(bench: Bench, plan: Path, tmp_path: Path) -> None:
    claim = "{who: Guo, year: 2018, claim: 60 %, access: gray box}"
    plan.write_text(
        PLAN.replace("[none, jpeg, gaussian]", "[none, jpeg]").replace(
            "queries: 5", "queries: 1"
        )
        + f"    claims:\n      jpeg: {claim}\n"
    )
    assert bench("paper", str(plan)).code == 0
    folder = tmp_path / "results" / "paper"
    none, jpeg = table((folder / "levels.md").read_text())
    assert (jpeg["who"], jpeg["year"], jpeg["claim"]) == ("Guo", "2018", "60 %")
    assert jpeg["access of the claim"] == "gray box"
    assert (none["who"], none["claim"]) == ("", "")
    assert none["worst case"]
    assert {"who", "claimed_access"} <= set(
        (folder / "levels.csv").read_text()[:999].split(",")
    )
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert bench("paper", "--rebuild").code == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before

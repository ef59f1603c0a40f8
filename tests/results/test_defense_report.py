"""The reviewer's page: its numbers are those of the stored images."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from bench.results.defense_report import level_of
from bench.results.files import read_json
from bench.results.store import Store
from bench.results.table import join

from ..command import Bench, is_one_clear_message

PLAN = """
datasets: digits
classifiers: {name: small_cnn, set: {training: {epochs: 1}}}
defenses: gaussian
attacks:
  - {name: apgd, set: {steps: 3, eot: 2}}
  - {name: noise, set: {tries: 1, eot: 1}}
  - {name: pgd, access: transfer, set: {steps: 3}}
threats: {norm: Linf, eps: 0.1}
n: 12
draws: 5
ladder: %s
"""
ASK = ("report", "--defense=gaussian", "--eps=0.1")


@pytest.mark.parametrize("ladder", ["true", "false"])
def test_the_page_counts_what_is_stored(ladder: str, bench: Bench) -> None:
    Path("plan.yaml").write_text(PLAN % ladder)
    assert bench("matrix", "plan.yaml").code == 0
    said = bench(*ASK, "--output=page.md")
    assert said.code == 0, said
    page = Path("page.md").read_text()

    store = Store(Path("results"))
    frames = [pd.read_parquet(store.outcomes(folder.name)) for folder in store.cells()]
    worst = join([frame for frame in frames if len(frame)])
    assert f"**{100 * worst['robust'].mean():.1f} %" in page
    assert f"{100 * worst['clean'].mean():.1f} %" in page
    table = [line.split("|") for line in page.splitlines() if line.startswith("| T")]
    assert sum(int(row[5]) for row in table) == 12 - worst["robust"].sum()
    assert int(table[-1][6]) == worst["robust"].sum()
    assert "Not tried: T3, T4, T6, T7, T8, T9." in page
    assert "bench matrix plan.yaml" in page
    assert "not audited" in page
    # The page keeps its shape: no line of a table is cut or doubled.
    assert all(len(row) == 10 for row in table)


def test_an_audit_is_quoted(bench: Bench) -> None:
    Path("plan.yaml").write_text(PLAN % "true")
    assert bench("matrix", "plan.yaml").code == 0
    store = Store(Path("results"))
    from bench.results.cell import subject_of

    cell = read_json(store.cells()[0] / "cell.json")
    path = store.audit(subject_of(cell))
    path.parent.mkdir(parents=True)
    finding = {"check": "C19", "state": "pass", "figure": "no gain in ten", "reason": ""}
    report = {
        "verdict": "The robust accuracy is void because of a plant (C9).",
        "state": "void",
        "subject": {"n": 7},
        "findings": [finding],
    }
    path.write_text(json.dumps(report))
    page = bench(*ASK).out
    assert "is void because of a plant (C9)." in page
    assert "T9, resubmission (audit C19, pass): no gain in ten." in page
    assert "Not tried: T3, T4, T6, T7, T8." in page
    # Every row of the table carries the state of its audit.
    rows = bench("table", "--format=csv").out.splitlines()
    assert all(",void," in row for row in rows[1:])


def test_two_cells_with_one_budget_are_told_apart(bench: Bench) -> None:
    plan = (PLAN % "false").replace("  - {name: pgd, access: transfer, set: {steps: 3}}\n", "")
    for rest in ("", "sequential: true\n"):
        Path("plan.yaml").write_text(plan + rest)
        assert bench("matrix", "plan.yaml").code == 0
    page = bench(*ASK).out
    apgd = [line for line in page.splitlines() if line.startswith("| apgd, ")]
    assert sorted("judging sequential" in line for line in apgd) == [False, True]
    assert sorted("judging all draws" in line for line in apgd) == [False, True]


def test_what_is_not_there_is_said(bench: Bench) -> None:
    is_one_clear_message(bench(*ASK), "no finished cell of gaussian", "bench matrix", code=2)
    Path("plan.yaml").write_text(PLAN % "true")
    assert bench("matrix", "plan.yaml").code == 0
    is_one_clear_message(bench(*ASK, "-n", "3"), "with n 3", code=2)
    Path("plan.yaml").write_text((PLAN % "true").replace("n: 12", "n: 6"))
    assert bench("matrix", "plan.yaml").code == 0
    said = bench(*ASK)
    is_one_clear_message(said, "with -n 6 or 12.", "or by --cell", code=2)
    assert bench(*ASK, "-n", "6").code == 0
    named = [bench(*ASK, "--cell", key[:8]) for key in re.findall(r"[0-9a-f]{16}", said.err)]
    assert [page.code for page in named] == [0, 0]
    assert sorted("first 12 test images" in page.out for page in named) == [False, True]
    is_one_clear_message(bench(*ASK, "--cell", "0000"), "no cell's key starts", code=2)
    is_one_clear_message(bench(*ASK, "--html", "--cell", "0000"), "leave it out", code=2)
    is_one_clear_message(bench("report", "gausian"), "did you mean gaussian?", code=2)


def test_kinds_that_differ_in_draws_alone_are_told_apart(bench: Bench) -> None:
    for draws in ("2", "3"):
        run = ("run", "--defense=gaussian", "--attack=noise", "--set=attack.tries=1", "-n4")
        assert bench(*run, "--draws", draws).code == 0
    is_one_clear_message(bench("report", "gaussian"), "with draws 2 or 3.", code=2)


@pytest.mark.parametrize(
    ("name", "access", "params", "level"),
    [
        ("noise", "query", {}, "T1"),
        ("autoattack", "transfer", {}, "T2"),
        ("square", "query", {}, "T3"),
        ("square", "label", {}, "T3"),
        ("bpda_eot", "bpda", {}, "T4"),
        ("pgd", "full", {}, "T5"),
        ("apgd", "full", {"surrogate": 2}, "T6"),
        ("adaptive", "bpda", {}, "T7"),
        ("strange", "bpda", {}, "T4"),
    ],
)
def test_the_level_of_an_attack(
    name: str, access: str, params: dict[str, int], level: str
) -> None:
    assert level_of({"attack": {"name": name, "params": params}, "access": access}) == level

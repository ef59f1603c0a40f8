"""Planted traps: each is named and its honest twin is not; a blinded audit is found out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.audit.findings import Finding, State, Weight
from bench.audit.subject import Subject
from bench.calibration import gaps, traps
from bench.calibration.gaps import Gap
from bench.calibration.report import document, known_answers
from bench.calibration.report import traps as table_of
from bench.calibration.traps import TRAPS, Named, Trap, spring
from bench.results.progress import Progress, Work, finish
from bench.results.workspace import Workspace

from ..cells import at
from ..command import Bench, is_one_clear_message, never

ORIGIN = {
    "command": "bench calibrate", "date": "today", "commit": "abc", "device": "cpu",
    "versions": {"torch": "2"},
}  # fmt: skip
GAP = Gap(
    attack="pgd", access="full", norm="Linf", defense="identity", classes=2, eps=("0.1",),
    exact=(50.0,), reached=(50.0,), judged=(50.0,), gap=0.0, gap_single=None,
    budget="defaults", ungated="", fault="",
)  # fmt: skip


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """One classifier of digits for all tests of this file: its training takes seconds."""
    return at(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def named(workspace: Workspace) -> list[Named]:
    return finish(spring(workspace=workspace))


def finding(state: State) -> Finding:
    return Finding("C9", "a check", Weight.VOID, state, figure="a | figure")


def test_every_trap_is_named_and_its_honest_twin_is_not(named: list[Named]) -> None:
    assert [row.trap for row in named] == [trap.name for trap in TRAPS]
    for row in named:
        assert row.found.state is State.FAIL, row
        assert row.found.reason
        assert row.honest.state is State.PASS, row  # not n/a: the check did look
        assert row.passes


@pytest.mark.parametrize(
    ("found", "honest", "passes"),
    [
        ("fail", "pass", True), ("warn", "pass", False), ("fail", "n/a", True),
        ("pass", "pass", False), ("n/a", "pass", False),
        ("fail", "fail", False), ("fail", "warn", False), ("pass", "fail", False),
    ],
)  # fmt: skip
def test_a_check_has_to_tell_them_apart(found: str, honest: str, passes: bool) -> None:
    assert Named("trap", finding(State(found)), finding(State(honest))).passes is passes


def always(state: State) -> Callable[[Subject], Finding]:
    return lambda subject: finding(state)


def planted(monkeypatch: pytest.MonkeyPatch, check: Callable[[Subject], Finding]) -> Trap:
    """Leave the traps of the quantizer and, blinded, of the purifier without a gradient."""
    first, second = TRAPS[:2]
    monkeypatch.setattr(traps, "TRAPS", (dataclasses.replace(first, check=check), second))
    return first


@pytest.mark.parametrize("state", [State.PASS, State.NOT_APPLICABLE, State.FAIL])
def test_a_blinded_or_hysterical_check_fails_the_command(
    state: State, workspace: Workspace, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    trap = planted(monkeypatch, always(state))
    nothing(monkeypatch)
    said = bench("calibrate", "--json", f"--results={workspace.store.root}")
    assert said.code == 1, said
    (line,) = said.err.splitlines()
    assert line == f"trap '{trap.name}': C9 says {state} of it and {state} of its honest twin"
    rows = json.loads(said.out)["traps"]
    assert [row["passes"] for row in rows] == [False, True]


def test_seeing_checks_do_not(
    workspace: Workspace, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted(monkeypatch, TRAPS[0].check)
    nothing(monkeypatch)
    said = bench("calibrate", f"--results={workspace.store.root}", "--output=page.md")
    assert said.code == 0, said
    page = Path("page.md").read_text()
    assert rows_of(page, "## Planted traps") == [trap.name for trap in TRAPS[:2]]


def nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def calibrate(**options: Any) -> Work[list[Gap]]:
        yield Progress("attacks", 0, 0)
        return [GAP]

    monkeypatch.setattr(gaps, "calibrate", calibrate)


def rows_of(page: str, head: str) -> list[str]:
    """Read the first column of the table under a head, and see that no row is cut."""
    part = page.partition(head)[2].partition("\n## ")[0]
    rows = [line for line in part.splitlines() if line.startswith("|")]
    assert len({row.replace(r"\|", "").count("|") for row in rows}) == 1, rows
    return [row.split(" | ")[0].removeprefix("| ") for row in rows[2:]]


def test_the_document_shows_both_tables() -> None:
    good = Named("a trap", finding(State.FAIL), finding(State.PASS))
    bad = Named("a hidden trap", finding(State.PASS), finding(State.PASS))
    page = document([known_answers([GAP]), table_of([good, bad])], ORIGIN)
    assert rows_of(page, "## Optimality gaps") == ["pgd"]
    assert rows_of(page, "## Planted traps") == ["a trap", "a hidden trap"]
    ends = [line[-8:] for line in page.splitlines() if "C9" in line]
    assert ends == [" | yes |", "e | NO |"]
    assert page.count(r"a \| figure") == 4


def test_one_attack_is_measured_without_the_audit(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One in a file, whose cost is not known, and which stays where it was in L2."""
    Path("mine.py").write_text(
        "def attack(view, x, y, *, threat):\n    return x\n"
        "attack.norms, attack.accesses = ('L2',), ('full', 'query')\n"
    )
    never(monkeypatch, "bench.calibration.traps.spring")
    monkeypatch.setattr(gaps, "CASES", gaps.CASES[:1])
    monkeypatch.setattr(gaps, "IMAGES", 10)
    said = bench("calibrate", "--attack=mine.py:attack")
    assert said.code == 1, said
    lines = [line for line in said.out.splitlines() if line.startswith("| mine.py:attack |")]
    assert len(lines) == 2
    assert "Planted traps" not in said.out
    is_one_clear_message(bench("calibrate", "--attack=nose"), "Did you mean 'noise'?", code=2)

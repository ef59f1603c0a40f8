"""--fail-below and --junit: what a pipeline sees of a run and of a plan."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from ..command import RUN, Bench, is_one_clear_message

# Of four images each: one that stands, one that is refused, and, where asked for, one that
# leaves the ball and one that fails.
ATTACKS = """
import torch
def still(view, x, y, threat, rng): return x
def far(view, x, y, threat, rng): return 1 - x
def broken(view, x, y, threat, rng): raise ValueError("<&> no luck")
"""
PLAN = """
defenses: none
attacks: [{names}]
threats: {{eps: 0.1}}
n: 4
draws: 3
classifiers: {{name: small_cnn, set: {{training.epochs: 1}}}}
"""
STANDS = ('"mine.py:still"', "{name: pgd, access: label}")
TROUBLE = ('"mine.py:far"', '"mine.py:broken"')


def plan(folder: Path, *names: str) -> None:
    (folder / "mine.py").write_text(ATTACKS)
    (folder / "plan.yaml").write_text(PLAN.format(names=", ".join(names)))


@pytest.mark.parametrize("value", ["-1", "101", "abc", "nan"])
def test_a_bad_bound_is_one_message_and_nothing_runs(
    bench: Bench, tmp_path: Path, value: str
) -> None:
    for words in (RUN, ("matrix", "plan.yaml")):
        is_one_clear_message(bench(*words, "--fail-below", value), "--fail-below", code=2)
    assert list(tmp_path.iterdir()) == []


def test_a_run_below_the_bound_exits_with_3_and_one_line(bench: Bench) -> None:
    assert bench(*RUN, "--fail-below=0").code == 0
    said = bench(*RUN, "--fail-below=100")
    is_one_clear_message(said, "below 100 in 1 of 1 cells", "none under noise", code=3)
    assert said.err.count("\n") == 1
    assert bench(*RUN, "--fail-below=100", "--json").rows[0]["state"] == "done"


def test_a_plan_names_what_is_below_and_writes_every_cell(bench: Bench, tmp_path: Path) -> None:
    plan(tmp_path, *STANDS)
    said = bench("matrix", "plan.yaml", "--fail-below=100", "--junit=out.xml")
    assert said.code == 3
    (line,) = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert "none under mine.py:still (" in line
    cases = list(ET.parse(tmp_path / "out.xml").iter("testcase"))
    assert sorted(case[-1].tag for case in cases) == ["failure", "skipped"]
    assert bench("matrix", "plan.yaml", "--fail-below=0", "--junit=out.xml").code == 0
    cases = list(ET.parse(tmp_path / "out.xml").iter("testcase"))
    assert sorted(case[-1].tag for case in cases) == ["properties", "skipped"]


def test_a_void_and_a_failed_cell_are_no_pass(bench: Bench, tmp_path: Path) -> None:
    plan(tmp_path, *TROUBLE)
    said = bench("matrix", "plan.yaml", "--fail-below=0", "--junit=out.xml")
    assert said.code == 1
    assert "mine.py:far (void)" in said.err
    assert "mine.py:broken (failed)" in said.err
    errors = {
        one.attrib["type"]: one.text for one in ET.parse(tmp_path / "out.xml").iter("error")
    }
    assert set(errors) == {"void", "failed"}
    assert "<&> no luck" in str(errors["failed"])


def test_only_refused_pairs_are_no_pass(bench: Bench, tmp_path: Path) -> None:
    plan(tmp_path, STANDS[1])
    assert bench("matrix", "plan.yaml").code == 0
    said = bench("matrix", "plan.yaml", "--fail-below=0")
    assert said.code == 3
    assert "nothing was measured" in said.err


def test_jobs_cannot_be_judged_before_they_ran(bench: Bench, tmp_path: Path) -> None:
    plan(tmp_path, *STANDS)
    for option in ("--fail-below=0", "--junit=out.xml"):
        said = bench("matrix", "plan.yaml", "--executor=slurm", "--jobs=2", option)
        is_one_clear_message(said, "--executor slurm returns before", code=2)


def test_a_report_needs_its_folder_before_anything_runs(bench: Bench, tmp_path: Path) -> None:
    plan(tmp_path, *STANDS)
    said = bench("matrix", "plan.yaml", "--junit=no/out.xml")
    is_one_clear_message(said, "no folder no", code=2)
    assert not (tmp_path / "results").exists()

"""A damaged report of an audit is shown as damaged, ends no command, and is made anew."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.audit.run import _known
from bench.results.audits import damaged_audits, reports
from bench.results.cell import subject_of
from bench.results.files import read_json
from bench.results.store import Store

from ..command import RUN, Bench, is_one_clear_message, runs

REPORT = {"state": "void", "verdict": "It is void.", "subject": {"n": 4}, "findings": []}
DAMAGES = {
    "cut": '{"state": "st',
    "empty": "",
    "a list": "[]",
    "nothing": "{}",
    "a number for the state": json.dumps({**REPORT, "state": 1}),
    "no number of images": json.dumps({**REPORT, "subject": {"n": None}}),
    "a text for the accuracy": json.dumps({**REPORT, "accuracy": "much"}),
    "a finding without its state": json.dumps({**REPORT, "findings": [{"check": "C14"}]}),
}


@pytest.fixture
def report(bench: Bench, tmp_path: Path) -> Path:
    """The report of a finished cell's audit."""
    assert bench(*RUN).code == 0
    store = Store(tmp_path / "results")
    (folder,) = store.cells()
    path = store.audit(subject_of(read_json(folder / "cell.json")))
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(REPORT))
    return path


def test_a_damaged_report_is_shown_as_damaged(
    bench: Bench, tmp_path: Path, report: Path
) -> None:
    assert ",void," in bench("table", "--format=csv").out
    store, name = Store(tmp_path / "results"), report.parent.name
    for text in DAMAGES.values():
        report.write_text(text)
        assert (damaged_audits(store), _known(report)) == ([name], None)
        assert reports(store) == {name: {"state": "damaged"}}
    said = bench("table", "--format=csv")
    is_one_clear_message(said, f"audit {name}", "bench verify", code=1)
    assert ",all draws,,damaged," in said.out
    said = bench("report", "--defense=none")
    is_one_clear_message(said, f"audit {name}", code=1)
    assert "Nothing is known of its audit" in said.out
    said = bench("verify")
    assert said.code == 1
    assert f"WRONG the report of audit {name} is not what bench wrote. Delete" in said.out
    assert bench(*RUN, "--seed=1").code == 0, "the table of all cells is written"
    assert {row["audit"] for row in runs(tmp_path)} == {"damaged"}

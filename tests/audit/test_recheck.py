"""A report of an audit that was edited is found out."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from bench.audit.findings import Finding, State, Weight, verdict
from bench.audit.recheck import contradictions
from bench.results.cell import subject_of
from bench.results.store import Store

CELL = {"dataset": "digits", "data": "x", "classifier": {}, "defense": {}, "norm": "Linf"}


@pytest.fixture
def report(tmp_path: Path) -> tuple[Store, Path, dict[str, Any]]:
    store = Store(tmp_path)
    found = [
        Finding("C1", "images are legal", Weight.VOID, State.PASS),
        Finding("C6", "converged", Weight.BOUND, State.FAIL, reason="steps matter"),
    ]
    said = verdict(found)
    content = {
        "asked": {"cell": CELL},
        "subject": {"n": 4},
        "findings": [asdict(finding) for finding in found],
        "state": said.state,
        "verdict": said.words,
    }
    path = store.audit(subject_of(CELL))
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content))
    return store, path, content


def test_an_honest_report_stands(report: tuple[Store, Path, dict[str, Any]]) -> None:
    assert list(contradictions(report[0])) == []


def test_what_was_edited_is_named(report: tuple[Store, Path, dict[str, Any]]) -> None:
    store, path, content = report
    path.write_text(json.dumps({**content, "state": "stands"}))
    assert "says 'stands', its findings say 'upper bound'" in "".join(contradictions(store))

    softened = [dict(found, state="pass") for found in content["findings"]]
    path.write_text(json.dumps({**content, "findings": softened}))
    assert "its findings say 'stands'" in "".join(contradictions(store))

    other = {"cell": {**CELL, "dataset": "mnist"}}
    path.write_text(json.dumps({**content, "asked": other}))
    assert "another defense or ball" in "".join(contradictions(store))

    path.write_text(json.dumps({"asked": {"cell": CELL}, "findings": [{"state": "fine"}]}))
    assert "is not what bench wrote" in "".join(contradictions(store))

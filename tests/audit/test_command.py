"""`bench audit` as a user meets it: the report, its page, and what is printed."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from bench.audit import attacks, controls, run
from bench.audit.findings import Finding
from bench.errors import StoreError

from ..command import Bench, Said, is_one_clear_message, never

EPS = "0.3"  # AutoAttack breaks all images at once, so that its dear Square has nothing to do
SMALL = ("--set=classifier.training.epochs=1", "-n", "8", "--draws=4")
ASK = (
    "audit", "--defense=gaussian", f"--eps={EPS}", *SMALL,
    "--set=attack.steps=2", "--set=attack.eot=2",
)  # fmt: skip
ALL = [f"C{number}" for number in range(1, 30)]
Report = dict[str, Any]


@pytest.fixture(autouse=True)
def _few_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attacks, "QUERIES", 10)
    monkeypatch.setattr(attacks, "TRIES", 10)


def report_of(said: Said) -> Report:
    assert said.code == 0, said
    report: Report = json.loads(said.out)
    return report


def repeatable(report: Report) -> Report:
    """Leave out the provenance, and what C28 counts on streams that are new in every audit."""
    findings = [
        {name: value for name, value in found.items() if name not in ("figure", "values")}
        if found["check"] == "C28"
        else found
        for found in report["findings"]
    ]
    kept = {name: value for name, value in report.items() if name != "provenance"}
    return {**kept, "findings": findings}


def the_file(suffix: str) -> Path:
    (path,) = Path("results").glob(f"audits/*/audit{suffix}")
    return path


def finding(report: Report, check: str) -> Report:
    (found,) = [found for found in report["findings"] if found["check"] == check]
    return dict(found)


def numbers_in_order(text: str, pattern: str) -> list[str]:
    return re.findall(pattern, text, flags=re.MULTILINE)


def test_all_checks_are_in_the_report_the_page_and_on_the_terminal(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = report_of(bench(*ASK, "--json"))
    findings = report["findings"]
    assert [found["check"] for found in findings] == ALL
    for found in findings:
        assert found["state"] in ("pass", "warn", "fail", "n/a"), found
        assert found["state"] == "pass" or found["reason"], found
        assert found["state"] == "n/a" or found["figure"], found
        assert found["threshold"], found
        assert "could not be run" not in found["reason"], found
        assert "nan" not in found["figure"].split(), found
    assert report["verdict"].startswith("The robust accuracy ")
    assert report["verdict"].endswith(".")
    assert report["state"] in ("stands", "upper bound", "void")
    accuracy = report["accuracy"]
    assert 0 <= accuracy["robust_low"] <= accuracy["robust"] <= accuracy["robust_high"] <= 100
    assert accuracy["robust"] <= accuracy["clean"]

    # What is written is what was printed, and a second call only reads it.
    assert json.loads(the_file(".json").read_text()) == report
    page = the_file(".md").read_text()
    assert numbers_in_order(page, r"^\| (C\d+) ") == ALL
    assert report["verdict"] in page
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {6}

    never(monkeypatch, "bench.audit.run.report_of", "bench.audit.subject.run_cell")
    again = bench(*ASK, "--json")
    assert report_of(again) == report
    told = bench(*ASK)
    assert told.code == 0
    assert numbers_in_order(told.out, r"^ *(C\d+) ") == ALL
    assert report["verdict"] in told.out
    assert f"{accuracy['robust']} %" in told.out
    assert bench(*ASK).out == told.out

    # What other attacks would have found is not known.
    monkeypatch.setattr("bench_attacks.pgd.Pgd.revision", 1000)
    with pytest.raises(pytest.fail.Exception, match="done again"):
        bench(*ASK)


def test_the_table_carries_the_state_to_the_same_defense_and_ball_alone(bench: Bench) -> None:
    noise = ("--attack=noise", "--set=attack.tries=1", *SMALL)
    for defense, eps in (("gaussian", EPS), ("gaussian", "0.2"), ("none", EPS)):
        assert bench("run", f"--defense={defense}", f"--eps={eps}", *noise).code == 0
    state = report_of(bench(*ASK, "--json"))["state"]
    rows = csv.DictReader(bench("table", "--format=csv").out.splitlines())
    found = {(row["defense"], row["eps"]): row["audit"] for row in rows}
    assert found == {
        ("gaussian", EPS): state,
        ("gaussian", "0.2"): "none",
        ("none", EPS): "none",
    }


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--eps=inf"], ["an audit needs a ball", "--eps"]),
        (["--eps=0"], ["an audit needs a ball", "--eps"]),
        (["--eps=0/255"], ["an audit needs a ball", "--eps"]),
        (["--eps=-1"], ["eps -1 is negative"]),
        (["--defense=gausian"], ["no defense is called 'gausian'", "'gaussian'"]),
        (["-n", "9999"], ["n is 9999", "500 images"]),
        (["--set=attack.stepz=2"], ["attack.stepz", "'attack.steps'"]),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("-") else "",
)
def test_nonsense_gives_one_clear_message(
    words: list[str], parts: list[str], bench: Bench
) -> None:
    is_one_clear_message(bench(*ASK, *words), *parts, code=2)
    assert not list(Path().rglob("audit.*"))


def test_a_coarser_process_that_the_defense_has_not_is_told_before_any_check(
    bench: Bench,
) -> None:
    said = bench(*ASK, "--set=attack.surrogate=2")
    is_one_clear_message(said, "has no cheaper process", "Do not set attack.surrogate", code=1)
    assert not list(Path().rglob("audit.*"))


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let C16, in the midst of the others, raise once it has done its attacks."""

    def planted_controls(subject: Any) -> Finding:
        """C16: purifiers that are known to be useless."""
        controls.planted_controls(subject)
        raise error

    checks = [
        planted_controls if check is controls.planted_controls else check
        for check in run.CHECKS
    ]
    assert planted_controls in checks
    monkeypatch.setattr(run, "CHECKS", tuple(checks))


def test_what_breaks_a_check_is_a_finding_and_what_stops_it_goes_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        raising(patch, KeyboardInterrupt())
        stopped = bench(*ASK)
    assert stopped.code == 130
    assert "To go on:\nbench audit " in stopped.err
    assert not list(Path("results").glob("audits/*/audit.*")), "a half audit has no report"

    with monkeypatch.context() as patch:
        raising(patch, StoreError("the disk is full"))
        is_one_clear_message(bench(*ASK, "--json"), "the disk is full", code=1)
    assert not list(Path("results").glob("audits/*/audit.*"))

    resumed = report_of(bench(*ASK, "--json"))
    fresh = report_of(bench(*ASK, "--json", "--results=elsewhere"))
    assert repeatable(resumed) == repeatable(fresh)

    with monkeypatch.context() as patch:
        raising(patch, RuntimeError("a | strange defense"))
        broken = report_of(bench(*ASK, "--json", "--results=elsewhere", "--seed=1"))
    found = finding(broken, "C16")
    assert found["state"] == "fail"
    assert found["figure"]
    assert "RuntimeError: a | strange defense" in found["reason"]
    assert [found["check"] for found in broken["findings"]] == ALL
    assert broken["state"] == "void"
    assert "strange defense" in broken["verdict"]
    others = [found for found in broken["findings"] if found["check"] != "C16"]
    assert not any("could not be run" in found["reason"] for found in others)

"""Audits that a plan asks for: which ones, and what becomes of those that cannot be made."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.audit.run import audits_of
from bench.errors import PluginError
from bench.experiments.matrix import resolve_plan
from bench.experiments.plan import Plan, read_plan
from bench.results.cell import Request
from bench.results.progress import Progress, Work
from bench.results.workspace import Workspace

from ..command import Bench, is_one_clear_message, runs

PLAN: dict[str, Any] = {
    "classifiers": {"name": "small_cnn", "set": {"training": {"epochs": 1}}},
    "defenses": "gaussian",
    "attacks": [{"name": "noise", "set": {"tries": 1, "eot": 1}}],
    "threats": {"norm": "Linf", "eps": 0.3},
    "n": 8,
    "draws": 3,
}
LADDER = Path(__file__).resolve().parents[2] / "plans" / "ladder.yaml"


def audits(*, images: int = 256, **changes: Any) -> list[Request]:
    return audits_of(resolve_plan(Plan.model_validate({**PLAN, **changes})), images)


def write(**changes: Any) -> None:
    Path("plan.yaml").write_text(yaml.safe_dump({**PLAN, **changes}))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """The audits that a command asks for, of which each is refused or told to have passed."""
    requests: list[Request] = []

    def audit(request: Request, *, workspace: Workspace) -> Work[dict[str, Any]]:
        requests.append(request)
        yield Progress("audit", 0, 1)
        if request.defense == "jpeg":
            raise PluginError("nothing can be made of it.")
        return {"verdict": "The robust accuracy stands: no check objects to it."}

    monkeypatch.setattr("bench.audit.run.audit", audit)
    return requests


def test_every_defense_under_every_ball_is_audited_once() -> None:
    both = audits(
        defenses=["gaussian", "none"],
        attacks=["pgd", {"name": "apgd", "set": {"steps": 7}}, "noise"],
        threats=[{"eps": 0.1}, {"eps": 0.2}, {"norm": "L2", "eps": 1}],
        seeds=[3, 4],
    )
    assert {(request.defense, request.norm.value, request.eps) for request in both} == {
        (defense, norm, eps)
        for defense in ("gaussian", "none")
        for norm, eps in (("Linf", Fraction("0.1")), ("Linf", Fraction("0.2")), ("L2", 1))
    }
    assert len(both) == 6
    for request in both:
        assert request.attack == "apgd"
        assert request.access is None
        assert request.seed == 3
        assert "attack" not in request.settings  # the budgets of a plan are not the audit's
        assert request.settings["classifier"] == {"training": {"epochs": 1}}


def test_other_parameters_are_another_defense() -> None:
    sizes = [{"name": "gaussian", "set": {"sigma": sigma}} for sigma in (0.1, 0.2)]
    assert [dict(request.settings["defense"]) for request in audits(defenses=sizes)] == [
        {"sigma": 0.1},
        {"sigma": 0.2},
    ]


def test_a_plan_and_the_command_ask_for_the_same_report() -> None:
    (one,) = audits(sequential=True, search="bfloat16")
    assert one == Request.parse(
        defense="gaussian", attack="apgd", eps="0.3", n=8, draws=3,
        settings={"defense": {}, "classifier": {"training": {"epochs": 1}}},
    )  # fmt: skip


@pytest.mark.parametrize("eps", ["inf", "0", "0/255"])
def test_what_is_no_ball_is_not_audited(eps: str) -> None:
    assert not audits(threats={"eps": eps}, attacks="pgd")


@pytest.mark.parametrize(
    ("audit", "n", "expected"),
    [(True, 300, 256), (True, 8, 8), (6, 8, 6), (9, 8, 8), (1, 8, 1), (False, 8, None)],
)
def test_how_many_images(
    audit: bool | int, n: int, expected: int | None, bench: Bench, asked: list[Request]
) -> None:
    write(audit=audit, n=n)
    assert bench("matrix", "plan.yaml").code == 0
    assert [request.n for request in asked] == ([] if expected is None else [expected])


@pytest.mark.parametrize("audit", [0, -1, 2.5, "yes", [3]])
def test_nonsense_is_a_fault_of_the_plan(audit: Any, bench: Bench) -> None:
    write(audit=audit)
    said = bench("matrix", "plan.yaml")
    is_one_clear_message(said, "audit: write true, false or the number of images", code=2)


def test_one_that_cannot_be_audited_does_not_stop_the_others(
    bench: Bench, asked: list[Request]
) -> None:
    write(
        audit=True, defenses=["jpeg", "gaussian"], attacks={"name": "pgd", "set": {"steps": 1}},
        threats=[{"eps": "inf"}, {"eps": 0}, {"eps": 0.3}],
    )  # fmt: skip
    said = bench("matrix", "plan.yaml", "--json")
    assert said.code == 0, said
    assert [(request.defense, request.eps) for request in asked] == [
        ("jpeg", Fraction("0.3")),
        ("gaussian", Fraction("0.3")),
    ]
    assert "no audit of jpeg: nothing can be made of it" in said.err
    assert "audit of gaussian: The robust accuracy stands" in said.err
    assert len(json.loads(said.out)) == 6
    assert len(runs(Path())) == 6


def test_an_audit_of_a_plan_is_that_of_the_command(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.audit.run.SETTINGS", {"steps": 1, "eot": 1})
    monkeypatch.setattr("bench.audit.attacks.QUERIES", 5)
    monkeypatch.setattr("bench.audit.attacks.TRIES", 5)
    write(audit=6)
    said = bench("matrix", "plan.yaml")
    assert said.code == 0, said
    (path,) = Path("results").glob("audits/*/audit.json")
    report = json.loads(path.read_text())
    assert report["subject"]["n"] == 6
    assert f"audit of gaussian: {report['verdict']}" in said.err
    (row,) = runs(Path())
    assert row["audit"] == report["state"]

    monkeypatch.setattr("bench.audit.run.report_of", lambda *_: pytest.fail("done again"))
    again = bench("matrix", "plan.yaml")
    assert f"audit of gaussian: {report['verdict']}" in again.err
    told = bench(
        "audit", "--defense=gaussian", "--eps=0.3", "-n", "6", "--draws=3", "--json",
        "--set=classifier.training.epochs=1",
    )  # fmt: skip
    assert json.loads(told.out) == report


PAIR = """
from dataclasses import dataclass
from typing import ClassVar

@dataclass(frozen=True)
class Pair:
    revision: ClassVar[int] = 1
    stochastic: ClassVar[bool] = False
    differentiable: ClassVar[bool] = True

    def purify(self, x, *, rng):
        return x, None
"""


def test_a_defense_that_does_not_run_is_void_and_the_others_are_audited(
    bench: Bench, install: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.audit.run.SETTINGS", {"steps": 1, "eot": 1})
    monkeypatch.setattr("bench.audit.attacks.QUERIES", 5)
    monkeypatch.setattr("bench.audit.attacks.TRIES", 5)
    install("pairs", "pairs", PAIR, "[bench.defenses]\npair = pairs:Pair\n")
    write(audit=6, defenses=["pair", "gaussian"])
    said = bench("matrix", "plan.yaml")
    assert "Traceback" not in said.err
    assert (
        "audit of pair: The robust accuracy is void because the check could not be" in said.err
    )
    assert "audit of gaussian: The robust accuracy" in said.err
    reports = [json.loads(path.read_text()) for path in Path("results").glob("audits/*/*.json")]
    states = {report["subject"]["defense"]["name"]: report["state"] for report in reports}
    assert states["pair"] == "void"
    assert states.keys() == {"pair", "gaussian"}


def test_the_ladders_are_audited() -> None:
    plan = read_plan(LADDER)
    assert plan.audit
    assert audits_of(resolve_plan(plan), int(plan.audit))

"""What the findings make of the robust accuracy. Imports no torch."""

from __future__ import annotations

from itertools import permutations

import pytest

from bench.audit.findings import Finding, State, Verdict, Weight, verdict


def found(check: str, weight: Weight, state: State = State.FAIL, reason: str = "") -> Finding:
    return Finding(check, check, weight, state, reason=reason or f"of {check}")


@pytest.mark.parametrize(
    "findings",
    [
        [],
        [found("C1", weight, State.PASS) for weight in Weight],
        [found("C1", weight, State.NOT_APPLICABLE) for weight in Weight],
    ],
    ids=["nothing", "pass", "n/a"],
)
def test_what_does_not_object_lets_the_number_stand(findings: list[Finding]) -> None:
    applied = sum(one.state is not State.NOT_APPLICABLE for one in findings)
    assert verdict(findings) == Verdict(
        "stands",
        f"The robust accuracy stands: none of the {applied} checks that apply objects to it.",
    )


@pytest.mark.parametrize("weight", list(Weight))
def test_a_warning_lets_the_number_stand_and_is_pointed_at(weight: Weight) -> None:
    said = verdict([found("C1", weight, State.WARN), found("C2", weight, State.PASS)])
    assert said.state == "stands"
    assert said.words.endswith("objects to it (but see C1).")


def test_a_failed_remark_lets_the_number_stand_and_is_pointed_at() -> None:
    said = verdict([found("C17", Weight.REMARK), found("C6", Weight.BOUND, State.WARN)])
    assert said.state == "stands"
    assert said.words.endswith("(but see C17, C6).")


def test_one_reason_completes_the_sentence() -> None:
    assert verdict([found("C6", Weight.BOUND, reason="twice the steps break more")]) == Verdict(
        "upper bound",
        "The robust accuracy is an upper bound because twice the steps break more (C6).",
    )
    assert verdict([found("C9", Weight.VOID, reason="the attack is broken")]) == Verdict(
        "void", "The robust accuracy is void because the attack is broken (C9)."
    )


def test_several_reasons_are_joined_in_the_order_of_the_findings() -> None:
    said = verdict([found("C8", Weight.BOUND), found("C3", Weight.BOUND)])
    assert said.words.endswith("because of C8 (C8); of C3 (C3).")


def test_what_several_checks_say_is_said_once() -> None:
    findings = [found("C2", Weight.VOID, reason="the check could not be run: x"),
                found("C3", Weight.VOID), found("C4", Weight.VOID,
                reason="the check could not be run: x")]  # fmt: skip
    said = verdict(findings).words
    assert said.endswith("because the check could not be run: x (C2, C4); of C3 (C3).")


def test_void_outweighs_a_bound_and_warnings_change_nothing_in_any_order() -> None:
    findings = [
        found("C2", Weight.BOUND),
        found("C9", Weight.VOID),
        found("C15", Weight.VOID, State.WARN),
        found("C19", Weight.REMARK),
    ]
    for order in permutations(findings):
        said = verdict(order)
        assert said == Verdict("void", "The robust accuracy is void because of C9 (C9).")
    assert verdict(finding for finding in findings if finding.check != "C9") == Verdict(
        "upper bound", "The robust accuracy is an upper bound because of C2 (C2)."
    )

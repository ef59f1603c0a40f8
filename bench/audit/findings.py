"""What the checks found, and what it makes of the robust accuracy. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from bench.errors import BenchError


class State(StrEnum):
    """How a check ended."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"
    NOT_APPLICABLE = "n/a"


class Weight(StrEnum):
    """What a failed check does to the robust accuracy.

    ``void``: nothing was measured. ``bound``: a better attack may find less. ``remark``: the
    number holds, and something else has to be known about the defense.
    """

    VOID = "void"
    BOUND = "bound"
    REMARK = "remark"


@dataclass(frozen=True)
class Finding:
    """One check: ``figure`` measured against ``threshold``, and ``reason`` in words.

    ``reason`` completes "because ..." where the check warns or fails, and says why where it
    does not apply. ``values`` has the numbers behind the figure, for programs.
    """

    check: str
    title: str
    weight: Weight
    state: State
    figure: str = ""
    threshold: str = ""
    reason: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """``state`` for tables (stands, upper bound or void), and the same in a sentence."""

    state: str
    words: str


def verdict(findings: Iterable[Finding]) -> Verdict:
    """Sum the findings up: a failed check of weight void outweighs one of weight bound."""
    findings = list(findings)
    failed = [finding for finding in findings if finding.state is State.FAIL]
    for weight, state, words in (
        (Weight.VOID, "void", "is void"),
        (Weight.BOUND, "upper bound", "is an upper bound"),
    ):
        checks: dict[str, list[str]] = {}
        for finding in failed:
            if finding.weight is weight:
                checks.setdefault(finding.reason, []).append(finding.check)
        reasons = [f"{reason} ({', '.join(names)})" for reason, names in checks.items()]
        if reasons:
            return Verdict(state, f"The robust accuracy {words} because {'; '.join(reasons)}.")
    noted = [f.check for f in findings if f.state in (State.WARN, State.FAIL)]
    but = f" (but see {', '.join(noted)})" if noted else ""
    applied = sum(f.state is not State.NOT_APPLICABLE for f in findings)
    who = f"none of the {applied} checks that apply objects to it"
    return Verdict("stands", f"The robust accuracy stands: {who}{but}.")


def in_words(error: BaseException) -> str:
    """Write an error as part of a reason; bench's own are sentences, others have a type."""
    if isinstance(error, BenchError):
        return str(error).rstrip(".")
    return f"{type(error).__name__}: {error}"

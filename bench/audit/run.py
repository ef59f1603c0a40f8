"""Run all checks on one defense and write the report beside the cells."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bench.audit.attacks import NO_GRADIENT, attackable, clean, square, worst
from bench.audit.checks import ATTACKS, CHECKS, RECORDS, REVISION, Check
from bench.audit.findings import Finding, State, Verdict, Weight, in_words, verdict
from bench.audit.recheck import read_finding
from bench.audit.report import markdown
from bench.audit.subject import Subject
from bench.core.threat import Access
from bench.errors import BenchError, StoreError, UsageError
from bench.experiments.prepare import Plugins, prepare, resolve
from bench.plugins.catalogue import build, parameters, plugin
from bench.results.audits import read_report
from bench.results.cell import Request, Search, ladder_of, subject_of
from bench.results.files import write_json, written
from bench.results.locks import claimed, wait
from bench.results.progress import Progress, Work
from bench.results.provenance import provenance
from bench.results.stats import wilson
from bench.results.store import Store
from bench.results.workspace import Workspace

# A step follows one draw nearly as well as five where their gradients agree, which C5 sees to,
# and the margin of what is sure is never rounded to 0.
SETTINGS: dict[str, Any] = {"steps": 20, "eot": 1, "loss": "margin"}
NOT_MEASURED = "not measured"  # the figure of a check that could not be run


def open_subject(request: Request, *, workspace: Workspace) -> Work[Subject]:
    """Prepare the defense of a request, training what is missing; raises BenchError."""
    settings = {**SETTINGS, **request.settings.get("attack", {})}
    request = replace(
        request,
        attack="apgd",
        access=None,
        settings={**request.settings, "attack": settings},
    )
    plugins = resolve(request)
    prepared = yield from prepare(plugins, workspace=workspace)
    folder = workspace.store.audit(subject_of(prepared.cell.canonical())).parent
    own = replace(workspace, store=Store(folder))
    subject = Subject(prepared, own, workspace.store, settings)
    if factor := settings.get("surrogate"):  # controls go without it, the defense cannot
        subject.view(Access.FULL).surrogate(int(factor))
    return subject


def audits_of(pairs: Iterable[Plugins], images: int) -> list[Request]:
    """List the audits of a plan: every defense under every ball once, on the first images.

    Of several seeds the first one: a defense and a ball have one report.
    """
    found: dict[str, Request] = {}
    for plugins in pairs:
        if not plugins.threat.bounded or plugins.threat.radius == 0:
            continue
        asked = replace(
            plugins.request,
            attack="apgd",
            access=None,
            n=min(images, plugins.request.n),
            sequential=False,  # the same report as that of `bench audit`
            search=Search.FLOAT32,
            settings={k: v for k, v in plugins.request.settings.items() if k != "attack"},
        )
        unseeded = replace(plugins, request=replace(plugins.request, seed=0))
        found.setdefault(ladder_of(unseeded.asked()), asked)
    return list(found.values())


def audit(request: Request, *, workspace: Workspace) -> Work[dict[str, Any]]:
    """Audit a request's defense under its ball; return the report, which is also written.

    What was asked before on the same images is read, not done again.
    """
    if not request.eps:
        raise UsageError("an audit needs a ball: give --eps a finite radius above 0.")
    workspace.store.probe()
    subject = yield from open_subject(request, workspace=workspace)
    path = workspace.store.audit(subject_of(subject.base.cell.canonical()))
    asked = asked_of(subject)
    what = f"audit of {request.defense}"
    while True:
        with claimed(workspace.store.claim(f"audit-{path.parent.name}")) as ours:
            if ours:
                if (known := _known(path)) and known["asked"] == asked:
                    return _looked_over(known, subject, path)
                findings: list[Finding] = []
                for done, check in enumerate(CHECKS):
                    note = check.__name__.replace("_", " ")
                    yield Progress(what, done, len(CHECKS), note=note, unit="checks")
                    findings.append(_run(check, subject))
                yield Progress(what, len(CHECKS), len(CHECKS), unit="checks")
                findings.sort(key=lambda finding: int(finding.check[1:]))
                found = report_of(subject, findings, verdict(findings))
                _keep({"asked": asked, **found}, path)
                return {"asked": asked, **found}
        yield from wait(what, 0, len(CHECKS))


def _known(path: Path) -> dict[str, Any] | None:
    """Read a finished report; None where there is none, or it is damaged and made anew."""
    if not path.is_file():
        return None
    try:
        report = read_report(path)
        list(map(read_finding, report["findings"]))
    except (StoreError, KeyError, TypeError, ValueError):
        return None
    return report if {"asked", "verdict"} <= report.keys() else None


def _looked_over(known: dict[str, Any], subject: Subject, path: Path) -> dict[str, Any]:
    """Run those checks of a finished audit again that look at cells made since."""
    fresh = {found.check: found for found in (_run(check, subject) for check in RECORDS)}
    findings = [fresh.get(old["check"]) or read_finding(old) for old in known["findings"]]
    found = verdict(findings)
    report = {
        **known,
        "findings": [asdict(finding) for finding in findings],
        "state": found.state,
        "verdict": found.words,
    }
    if report != known:
        _keep(report, path)
    return report


def _keep(report: dict[str, Any], path: Path) -> None:
    with written(path.with_suffix(".md")) as temporary:
        temporary.write_text(markdown(report))
    write_json(path, report)  # last: its presence says that the audit is complete


def asked_of(subject: Subject) -> dict[str, Any]:
    """Write what decides the outcome of an audit, before any check changes the attack."""
    attacks = {name: plugin("attacks", name).revision for name in ATTACKS}
    return {"cell": subject.base.cell.canonical(), "checks": REVISION, "attacks": attacks}


def _run(check: Check, subject: Subject) -> Finding:
    """Run a check; an error of the defense in it is a finding, and the others go on."""
    try:
        return check(subject)
    except StoreError:  # nothing can be kept: that is no fault of the defense
        raise
    except (Exception, SystemExit) as error:
        number = (check.__doc__ or "C0").partition(":")[0]
        title = check.__name__.replace("_", " ")
        if _known_to_be_blind(subject):
            state = State.NOT_APPLICABLE
            return Finding(number, title, Weight.BOUND, state, reason=NO_GRADIENT)
        reason = f"the check could not be run: {in_words(error)}"
        if not isinstance(error, BenchError):
            place = traceback.extract_tb(error.__traceback__)[-1]
            reason += f" ({Path(place.filename).name}:{place.lineno})"
        return Finding(
            number,
            title,
            Weight.VOID,
            State.FAIL,
            figure=NOT_MEASURED,
            reason=reason,
        )


def _known_to_be_blind(subject: Subject) -> bool:
    """Whether the defense runs and has no gradient for the main attack."""
    try:
        return not attackable(subject)
    except (Exception, SystemExit):  # it does not even run
        return False


def _access(subject: Subject) -> Access:
    """Return the main attack's access; of a defense that does not run, what it claims."""
    try:
        return subject.access
    except (Exception, SystemExit):
        return Access.FULL if subject.defense.purifier.differentiable else Access.BPDA


def _accuracy(subject: Subject, findings: list[Finding]) -> dict[str, float] | None:
    """Return the audit's own figures in percent: clean, and robust to all that it tried.

    None where a check could not be run: then not all that it names was tried.
    """
    if any(found.figure == NOT_MEASURED for found in findings):
        return None
    robust = worst(subject)
    for found in findings:
        if found.check == "C7":  # an iterate that the attack saw and did not return
            robust[list(found.values.get("indices", []))] = False
    n = len(robust)
    low, high = wilson(int(robust.sum()), n)
    return {
        "clean": round(100 * float(clean(square(subject)).mean()), 2),
        "robust": round(100 * float(robust.mean()), 2),
        "robust_low": round(100 * low, 2),
        "robust_high": round(100 * high, 2),
    }


def report_of(subject: Subject, findings: list[Finding], found: Verdict) -> dict[str, Any]:
    """Write all that a reader needs as plain JSON values."""
    cell = subject.base.cell.canonical()
    del cell["attack"], cell["access"]
    return {
        "subject": cell,
        "accuracy": _accuracy(subject, findings),
        "attack": {"name": "apgd", **parameters(build("attacks", "apgd", subject.settings))},
        "access": _access(subject).value,
        "findings": [asdict(finding) for finding in findings],
        "state": found.state,
        "verdict": found.words,
        "provenance": provenance(subject.workspace.device),
    }

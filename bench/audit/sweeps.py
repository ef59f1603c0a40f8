"""Checks that turn one knob of the main attack: its budget (C6) and its radius (C8, C9)."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

from scipy.stats import binom

from bench.audit.attacks import NO_GRADIENT, attackable, clean, doubled, right, sweep
from bench.audit.findings import Finding, State, Weight
from bench.audit.subject import LEVEL, Subject
from bench.core.threat import format_eps
from bench.results.stats import worsens

_FEW = 32  # images of the unbounded attack, where nearly none stays right
_MORE = {  # what breaks more, and what then to do
    "steps": ("twice the steps", "raise attack.steps"),
    "eot": ("twice the draws", "raise attack.eot"),
    "restarts": ("twice the restarts", "raise attack.restarts"),
}


def converged(subject: Subject) -> Finding:
    """C6: twice the steps, draws or restarts break nothing of what the main attack left."""
    blank = Finding(
        "C6", "converged", Weight.BOUND, State.NOT_APPLICABLE,
        threshold="no more broken by a doubled budget (paired tests at 1 %)",
        reason=NO_GRADIENT,
    )  # fmt: skip
    if not attackable(subject):
        return blank
    main = subject.strong()
    state, reasons, shown = State.PASS, [], [f"{main.accuracy:.1%}"]
    values: dict[str, object] = {"accuracy": main.accuracy}
    for name, run in doubled(subject).items():
        what, advice = _MORE[name]
        more = int(right(main).sum() - right(run).sum())
        p = worsens(right(main), right(run))
        shown.append(f"{run.accuracy:.1%} with {what}")
        values[name] = {"accuracy": run.accuracy, "p": p}
        if p <= LEVEL:
            state = State.FAIL
            reasons.append(f"{what} break {more} images more: {advice}")
        elif more > 0:
            state = state if state is State.FAIL else State.WARN
            reasons.append(f"{what} break {more} images more, which may be chance")
    return replace(
        blank, state=state, figure=", ".join(shown), reason="; ".join(reasons), values=values
    )


def monotone_in_eps(subject: Subject) -> Finding:
    """C8: a larger ball never leaves more images right."""
    blank = Finding(
        "C8", "monotone in eps", Weight.BOUND, State.NOT_APPLICABLE,
        threshold="no rise from one radius to the next (paired tests at 1 %)",
        reason=NO_GRADIENT,
    )  # fmt: skip
    if not attackable(subject):
        return blank
    found = sweep(subject)
    n = len(found[0][1])
    curve = [(0.0, "0", clean(subject.strong())[:n])]
    curve += [(float(eps), format_eps(eps), kept) for eps, kept in found]
    state, reasons = State.PASS, []
    for (_, small, near), (_, large, far) in pairwise(curve):
        rise = int(far.sum() - near.sum())
        if rise <= 0:
            continue
        surely = worsens(far, near) <= LEVEL
        state = State.FAIL if surely or state is State.FAIL else State.WARN
        reasons.append(
            f"{rise} images more stay right at eps {large} than at {small}"
            + ("" if surely else ", which may be chance")
        )
    if state is State.FAIL:
        reasons.append("the attack fails to converge in a larger ball: see C2 to C5")
    return replace(
        blank,
        state=state,
        figure=", ".join(f"{kept.mean():.1%} at {eps}" for _, eps, kept in curve)
        + f" (of {n} images)",
        reason="; ".join(reasons),
        values={"curve": [(eps, float(kept.mean())) for eps, _, kept in curve]},
    )


def unbounded_breaks(subject: Subject) -> Finding:
    """C9: without a bound the main attack leaves no more right than guessing would."""
    blank = Finding(
        "C9", "unbounded attack", Weight.VOID, State.NOT_APPLICABLE,
        threshold="at most chance + 3 standard errors", reason=NO_GRADIENT,
    )  # fmt: skip
    if not attackable(subject):
        return blank
    n = len(subject.images)
    chance = 1 / len(subject.strong().rows["votes"].iloc[0])
    limit = chance + 3 * math.sqrt(chance * (1 - chance) / n)
    # Few images do where so few of them stay right that the share of all is surely within.
    run = subject.first(_FEW).quick(eps=None)
    if binom.cdf(int(right(run).sum()), len(run.rows), limit) > LEVEL:
        run = subject.quick(eps=None)
    over = run.accuracy > limit
    return replace(
        blank,
        state=State.FAIL if over else State.PASS,
        figure=f"{run.accuracy:.1%} of {len(run.rows)} stay right",
        threshold=f"at most {limit:.1%}, chance + 3 standard errors",
        reason="the attack is broken: without a bound any image can be reached, see C2 to C5"
        if over
        else "",
        values={"accuracy": run.accuracy, "chance": chance, "limit": limit},
    )

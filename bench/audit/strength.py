"""Checks that weaker attacks break no image which the main attack cannot: C10 to C13."""

from __future__ import annotations

from dataclasses import replace

from bench.audit.attacks import (
    NO_GRADIENT,
    QUERIES,
    TRIES,
    attackable,
    bpda,
    clean,
    indices_of,
    noise,
    one_step,
    right,
    settings_of,
    square,
    transfer,
)
from bench.audit.findings import Finding, State, Weight
from bench.audit.subject import LEVEL, Subject
from bench.results.stats import exceeds, worsens

_FEW = 5  # broken images below which shares of them say nothing


def iterative_beats_one_step(subject: Subject) -> Finding:
    """C10: many steps break as many images as a single one of the whole radius."""
    blank = Finding(
        "C10", "iterative beats one step", Weight.BOUND, State.NOT_APPLICABLE,
        threshold="one step breaks no more (paired test at 1 %)", reason=NO_GRADIENT,
    )  # fmt: skip
    if not attackable(subject):
        return blank
    main, single = subject.strong(), one_step(subject)
    more = int(right(main).sum() - right(single).sum())
    p = worsens(right(main), right(single))
    state = alarm(raw=more > 0, p=p)
    return replace(
        blank,
        state=state,
        figure=f"{single.accuracy:.1%} after one step, {main.accuracy:.1%} after all",
        reason=told(
            state, f"one step (FGSM) breaks {more} images more", "the attack fails to converge"
        ),
        values={"one step": single.accuracy, "main": main.accuracy, "p": p},
    )


def transfer_is_weaker(subject: Subject) -> Finding:
    """C11: an attack on the whole defense breaks what one on the bare classifier breaks."""
    blank = Finding(
        "C11", "transfer is weaker", Weight.BOUND, State.NOT_APPLICABLE,
        threshold="breaks at most 1 % that BPDA and the main attack do not", reason=NO_GRADIENT,
    )  # fmt: skip
    if not attackable(subject):
        return blank
    main = subject.strong()
    if subject.changes_nothing(main.x_adv):
        return replace(
            blank, reason="the purifier changes no image: transfer is the whole defense"
        )
    gray = transfer(subject)
    extra = ~right(gray) & right(bpda(subject)) & right(main)
    count, p = int(extra.sum()), exceeds(int(extra.sum()), len(extra), 0.01)
    state = alarm(raw=count > 0.01 * len(extra), p=p)
    return replace(
        blank,
        state=state,
        figure=f"{count} of {len(extra)} images broken by transfer AutoAttack alone",
        reason=told(
            state,
            f"only AutoAttack on the bare classifier breaks {count} images",
            "the purifier masks gradients",
        ),
        values={"extra": count, "indices": indices_of(subject, extra), "p": p},
    )


def square_is_weaker(subject: Subject) -> Finding:
    """C12: a gradient attack breaks what a random search on the outputs breaks."""
    blank = Finding(
        "C12", "Square is weaker", Weight.BOUND, State.NOT_APPLICABLE,
        threshold="breaks at most 0.2 % that the main attack does not", reason=NO_GRADIENT,
    )  # fmt: skip
    if not attackable(subject):
        return blank
    extra = ~right(square(subject)) & right(subject.strong())
    count, p = int(extra.sum()), exceeds(int(extra.sum()), len(extra), 0.002)
    state = alarm(raw=count > 0.002 * len(extra), p=p)
    draws = min(settings_of(subject)["eot"], 5) if subject.defense.stochastic else 1
    return replace(
        blank,
        state=state,
        figure=f"{count} of {len(extra)} images broken by Square alone ({QUERIES} queries, "
        f"draws of each: {draws})",
        reason=told(
            state,
            f"a Square attack without gradients breaks {count} images that the main attack "
            "does not",
            "the gradients mislead",
        ),
        values={"extra": count, "indices": indices_of(subject, extra), "p": p},
    )


def noise_is_weaker(subject: Subject) -> Finding:
    """C13: a gradient attack breaks far more than the best of many random noises."""
    blank = Finding(
        "C13", "random noise is weaker", Weight.BOUND, State.NOT_APPLICABLE,
        threshold="breaks at most 10 % of what the main attack breaks", reason=NO_GRADIENT,
    )  # fmt: skip
    if not attackable(subject):
        return blank
    main, random = subject.strong(), noise(subject)
    broken = int((clean(main) & ~right(main)).sum())
    by_noise = int((clean(random) & ~right(random)).sum())
    # Where noise breaks more than the main attack does, the few of the latter prove its point.
    if max(broken, by_noise) < _FEW:
        return replace(
            blank, reason=f"the main attack breaks {broken} images, too few for shares of them"
        )
    p = exceeds(by_noise, max(broken, by_noise), 0.1)
    state = alarm(raw=by_noise > 0.1 * broken, p=p)
    return replace(
        blank,
        state=state,
        figure=f"the best of {TRIES} noises breaks {by_noise} images, the main attack {broken}",
        reason=told(
            state,
            f"random noise breaks {by_noise} images where the main attack breaks {broken}",
            "the attack hardly raises the loss, or the ball is so large that anything breaks",
        ),
        values={"noise": by_noise, "main": broken, "p": p},
    )


def alarm(*, raw: bool, p: float) -> State:
    """Fail where an excess is significant, warn where it is there at all."""
    if not raw:
        return State.PASS
    return State.FAIL if p <= LEVEL else State.WARN


def told(state: State, what: str, why: str) -> str:
    """Complete "because": what was seen, and why it is so or that it need not be."""
    if state is State.PASS:
        return ""
    return (
        f"{what}: {why}, see C2 to C5"
        if state is State.FAIL
        else f"{what}, which may be chance"
    )

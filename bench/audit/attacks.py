"""The attacks that the checks of strength compare, each asked for in one way only."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.audit.subject import Run, Subject
from bench.core.threat import Access, Norm
from bench.plugins.catalogue import build, parameters

Outcome = npt.NDArray[np.bool_]
NO_GRADIENT = "the classifier passes no gradient back, so that the main attack cannot run"
QUERIES = 200  # of Square, whose authors take thousands
TRIES = 1000  # of random noise


def settings_of(subject: Subject) -> dict[str, Any]:
    """Write the main attack's parameters, defaults included."""
    return parameters(build("attacks", "apgd", subject.settings))


def attackable(subject: Subject) -> bool:
    """Whether the main attack can run: its last resort is the classifier's gradient."""
    return subject.has_gradient(Access.BPDA)


def right(run: Run) -> Outcome:
    """Read which images (N,) stay right."""
    return run.rows["robust"].to_numpy(dtype=bool)


def clean(run: Run) -> Outcome:
    """Read which images (N,) are right before any attack."""
    return run.rows["clean"].to_numpy(dtype=bool)


def indices_of(subject: Subject, chosen: Outcome) -> list[int]:
    """Name some of the first images (N,) by their index in the data set."""
    names: list[int] = subject.images.indices.cpu().numpy()[: len(chosen)][chosen].tolist()
    return names


def doubled(subject: Subject) -> dict[str, Run]:
    """Double each budget of the main attack by itself; a deterministic defense has no draws."""
    settings = settings_of(subject)
    budgets = (
        ("steps", "eot", "restarts") if subject.defense.stochastic else ("steps", "restarts")
    )
    return {name: subject.strong(settings={name: 2 * settings[name]}) for name in budgets}


def radii(subject: Subject) -> list[Fraction]:
    """List a quarter, a half, one, two and four times the radius, Linf no larger than 1."""
    eps = subject.threat.eps or Fraction(0)
    ladder = [eps * factor for factor in (Fraction(1, 4), Fraction(1, 2), 1, 2, 4)]
    if subject.threat.norm is Norm.LINF:
        ladder = [min(radius, Fraction(1)) for radius in ladder]
    return list(dict.fromkeys(ladder))


def one_step(subject: Subject) -> Run:
    """Take one step of the whole radius from the image itself (FGSM, with EOT)."""
    main = settings_of(subject)
    settings = {
        "steps": 1,
        "random_start": False,
        "step_size": subject.threat.radius,
        **{name: main[name] for name in ("eot", "loss")},
    }
    return subject.run("pgd", subject.access, settings)


def bpda(subject: Subject) -> Run:
    """Run the main attack with the purifier's gradient replaced by the identity's."""
    return subject.strong(access=Access.BPDA)


def transfer(subject: Subject) -> Run:
    """Run AutoAttack on the bare classifier."""
    return subject.run("autoattack", Access.TRANSFER)


def square(subject: Subject) -> Run:
    """Run a Square attack of modest cost on the whole defense."""
    settings = {"queries": QUERIES, "eot": min(settings_of(subject)["eot"], 5)}
    return subject.run("square", Access.QUERY, settings)


def noise(subject: Subject) -> Run:
    """Try random noise in the ball, each by a single draw: the judge has the last word."""
    return subject.run("noise", Access.QUERY, {"tries": TRIES, "eot": 1})


def worst(subject: Subject) -> Outcome:
    """Return which images (N,) no attack of these checks broke in the ball: the minimum.

    What is broken in a smaller ball is broken in this one.
    """
    runs = [square(subject), noise(subject)]
    if attackable(subject):
        runs += [subject.strong(), *doubled(subject).values(), one_step(subject)]
        runs += [bpda(subject), transfer(subject)]
        smaller = [radius for radius in radii(subject) if radius < subject.threat.radius]
        runs += [subject.strong(eps=radius) for radius in smaller]
    stays: Outcome = np.logical_and.reduce([right(run) for run in runs])
    return stays

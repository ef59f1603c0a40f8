"""The attacks that the checks of strength compare, each asked for in one way only."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.audit.noise_race import NoiseRace
from bench.audit.subject import Run, Subject
from bench.core.threat import Access, Norm
from bench.plugins.catalogue import build, parameters

Outcome = npt.NDArray[np.bool_]
NO_GRADIENT = "the classifier passes no gradient back, so that the main attack cannot run"
QUERIES = 200  # of Square, whose authors take thousands
TRIES = 1000  # of random noise
FEW = 40  # images of the sweep over radii, where they show no rise


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
    """Attack what the main attack left with twice of each budget by itself.

    Steps and draws are those of the targeted ascents, the stronger half of the main attack. A
    deterministic defense has no draws; the targeted ascents have no restarts.
    """
    settings, main = settings_of(subject), subject.strong()
    twice = {
        name: subject.targeted(settings={name: 2 * settings[name]}, after=main)
        for name in (("steps", "eot") if subject.defense.stochastic else ("steps",))
    }
    again = subject.quick(settings={"restarts": 2 * settings["restarts"]}, after=main)
    return {**twice, "restarts": again}


def radii(subject: Subject) -> list[Fraction]:
    """List a quarter, a half, one, two and four times the radius, Linf no larger than 1."""
    eps = subject.threat.eps or Fraction(0)
    ladder = [eps * factor for factor in (Fraction(1, 4), Fraction(1, 2), 1, 2, 4)]
    if subject.threat.norm is Norm.LINF:
        ladder = [min(radius, Fraction(1)) for radius in ladder]
    return list(dict.fromkeys(ladder))


def sweep(subject: Subject) -> list[tuple[Fraction, Outcome]]:
    """List what an untargeted ascent leaves right (N,) at each radius, of some images or all.

    The first ``FEW`` do where no radius leaves more of them right than the one before: a rise
    that one image in ten shows is missed with a probability of .9^40, 1.5 percent.
    """
    eps, main = subject.threat.eps, right(subject.quick())
    for part in (subject.first(FEW), subject):
        n = len(part.images)
        curve = [
            (radius, main[:n] if radius == eps else right(part.quick(eps=radius)))
            for radius in radii(subject)
        ]
        left = [int(stays.sum()) for _, stays in curve]
        if left == sorted(left, reverse=True):
            break
    return curve


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
    """Run the main attack on what it left, with the identity's gradient for the purifier's."""
    return subject.quick(access=Access.BPDA, after=subject.strong())


def on_bare(subject: Subject) -> Run:
    """Run AutoAttack on the classifier without its purifier, and judge it without one."""
    return subject.run("autoattack", Access.TRANSFER, variant=subject.bare)


def transfer(subject: Subject) -> Run:
    """Run AutoAttack on the bare classifier, with what the main attack left."""
    return subject.run("autoattack", Access.TRANSFER, after=subject.strong())


def square(subject: Subject) -> Run:
    """Run a Square attack of modest cost on the whole defense, on what the main attack left."""
    settings = {"queries": QUERIES, "eot": min(settings_of(subject)["eot"], 5)}
    main = subject.strong() if attackable(subject) else None
    return subject.run("square", Access.QUERY, settings, after=main)


def noise(subject: Subject) -> Run:
    """Try random noise in the ball, each by a single draw: the judge has the last word."""
    return subject.run_with(NoiseRace(TRIES), "noise race", Access.QUERY)


def worst(subject: Subject) -> Outcome:
    """Return which images (N,) no attack of these checks broke in the ball: the minimum.

    What is broken in a smaller ball is broken in this one.
    """
    stays = right(square(subject)) & right(noise(subject))
    if attackable(subject):
        # Where no image changes C15 has run it: AutoAttack is slow on a robust classifier.
        bare = subject.changes_nothing(subject.strong().x_adv)
        gray = on_bare(subject) if bare else transfer(subject)
        runs = [*doubled(subject).values(), one_step(subject), bpda(subject), gray]
        smaller = [kept for radius, kept in sweep(subject) if radius <= subject.threat.radius]
        for kept in [*map(right, runs), *smaller]:
            stays[: len(kept)] &= kept
    return stays

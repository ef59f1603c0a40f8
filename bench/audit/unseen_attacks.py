"""Check of defenses that were trained on adversarial images: C24."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from bench.audit.controls import significantly_below
from bench.audit.findings import Finding, State, Weight
from bench.audit.subject import LEVEL, Run, Subject
from bench.core.threat import Access, Norm, ThreatModel, format_eps, parse_eps, parse_norm
from bench.evaluation.judge import judge

_FALL, _LEAN = 0.20, 0.10  # of accuracy: an alarm, a warning
_FALLEN = 0.05  # accuracy of the bare classifier that counts as about 0


@dataclass(frozen=True)
class Transfer:
    """A transfer attack in a ball."""

    norm: Norm
    eps: Fraction
    attack: str = "autoattack"
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.attack} {self.norm} {format_eps(self.eps)}"


def not_fitted_to_one_attack(subject: Subject) -> Finding:
    """C24: a defense trained on one attack holds against others, all by transfer.

    Two accuracies compare the purifier where the bare classifier falls to both attacks alike.
    """
    about = ("C24", "not fitted to one attack", Weight.BOUND)
    threshold = (
        f"falls by at most {_FALL:.0%} (paired, {LEVEL:.0%}) under other attacks; other source "
        "models are not tried"
    )
    trained = trained_against(subject.base.cell.defense.params)
    if trained is None:
        return Finding(
            *about,
            State.NOT_APPLICABLE,
            threshold=threshold,
            reason="the defense was trained on no attack",
        )
    home, left = _attacked(subject, trained)
    figures = [f"{home.accuracy:.1%} under the trained {trained}"]
    values = {"trained": home.accuracy, "trained, bare": left}
    compared = left <= _FALLEN
    failed: list[str] = []
    leaning: list[str] = []
    for other in others(trained, numbers=subject.images.x[0].numel()) if compared else []:
        run, left = _attacked(subject, other)
        values |= {str(other): run.accuracy, f"{other}, bare": left}
        figures.append(f"{run.accuracy:.1%} under {other}")
        if left > _FALLEN:
            figures[-1] += f" (not compared: the bare classifier keeps {left:.1%})"
            continue
        fall = home.accuracy - run.accuracy
        if fall > _LEAN:
            alarm = fall > _FALL and significantly_below(run, home)
            (failed if alarm else leaning).append(f"to {run.accuracy:.1%} under {other}")
    if not compared:
        return Finding(
            *about,
            State.NOT_APPLICABLE,
            figure=figures[0],
            threshold=threshold,
            reason=f"the bare classifier keeps {left:.1%} under the trained attack: a fall "
            "under another one would not be the purifier's",
            values=values,
        )
    falls = failed or leaning
    return Finding(
        *about,
        State.FAIL if failed else State.WARN if leaning else State.PASS,
        figure=", ".join(figures),
        threshold=threshold,
        reason=f"the defense is fitted to the attack that it was trained on: it falls "
        f"{' and '.join(falls)}; attack it there too"
        if falls
        else "",
        values=values,
    )


def trained_against(params: Mapping[str, Any]) -> Transfer | None:
    """Read the attack that a defense saw in training off its parameters; None for none."""
    training = params.get("training")
    if not isinstance(training, Mapping) or "eps" not in training:
        return None
    norm = parse_norm(str(training.get("norm", Norm.LINF)))
    eps = parse_eps(str(training["eps"]), norm)
    attacked = training.get("share", 1) and training.get("negatives") != "random_sign"
    return Transfer(norm, eps) if eps and attacked else None


def others(trained: Transfer, *, numbers: int) -> list[Transfer]:
    """List the attacks to compare with, for images of this many ``numbers``.

    A doubled ball in which every image can become plain gray is left out: no defense holds. In
    the other norm APGD alone goes for AutoAttack, which asks 5,000 queries of a last image.
    """
    norm, eps = trained.norm, trained.eps
    matching = Norm.L2 if norm is Norm.LINF else Norm.LINF
    radius = matching_radius(eps, norm, numbers=numbers)
    found = [Transfer(matching, radius, "apgd", {"steps": 100, "loss": "ce"})]
    gray = 0.5 if norm is Norm.LINF else 0.5 * math.sqrt(numbers)
    if 2 * eps < gray:
        found.append(Transfer(norm, 2 * eps))
    return [*found, Transfer(norm, eps, "pgd", {"steps": 100, "loss": "margin"})]


def matching_radius(eps: Fraction, norm: Norm, *, numbers: int) -> Fraction:
    """Convert a radius to the other norm's by convention, L2 = Linf sqrt(D) / 4, to 2 digits.

    With D ``numbers`` an image it gives MNIST's 0.3 and 2.1, and CIFAR's 8/255 and 0.43.
    """
    ratio = math.sqrt(numbers) / 4
    radius = float(eps) * ratio if norm is Norm.LINF else min(float(eps) / ratio, 1.0)
    return Fraction(f"{radius:.2g}")


def _attacked(subject: Subject, by: Transfer) -> tuple[Run, float]:
    """Run an attack made on the bare classifier; return also what that one keeps under it.

    Both are judged on the same images: an attack by transfer does not see the purifier.
    """
    run = subject.run(by.attack, Access.TRANSFER, by.settings, norm=by.norm, eps=by.eps)
    bare = judge(
        subject.bare.defense,
        subject.images.x,
        subject.images.y,
        run.x_adv,
        threat=ThreatModel(by.norm, by.eps, Access.TRANSFER),
        draws=1,
        rng=subject.rng.fork("bare"),
    )
    return run, float(bare.robust.float().mean())

"""Checks of the loss that attacks maximise: its noise, its surface, its zeros. C5, C20, C21."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import torch

from bench.audit.findings import Finding, State, Weight
from bench.audit.gradients import nudged
from bench.audit.subject import Subject
from bench.core.eot import averaged_gradient, averaged_loss
from bench.core.losses import LOSSES, cross_entropy
from bench.core.threat import Access

_COSINE = 0.5  # of two averages that agree on where to go
_CAP = 64  # draws a gradient that an attack can still afford
_IMAGES = 64  # enough for a median
_DIRECTIONS, _FIRST = 100, 20
_RUGGED = 1.0  # mean relative change of the loss
_LEAST = 1e-3  # losses below count as this much: a share of almost nothing says nothing
_SATURATED = 0.1  # share of images


def eot_is_stable(subject: Subject) -> Finding:
    """C5: two averages of the gradient over disjoint draws point the same way.

    This check changes the subject: where more draws are needed, ``settings["eot"]`` becomes
    their number and later attacks use as many. Where the cap does not suffice it stays. Of
    at most 64 images; those without a gradient, whose loss is saturated, are left out.
    """
    found = partial(
        Finding,
        "C5",
        "EOT is stable",
        Weight.BOUND,
        threshold=f"median cosine at least {_COSINE}",
    )
    if not subject.defense.stochastic:
        return found(
            State.NOT_APPLICABLE, reason="the defense is deterministic: one draw is the mean"
        )
    if not subject.has_gradient(subject.access):
        return found(State.NOT_APPLICABLE, reason="the classifier has no gradient")
    asked = draws = int(subject.settings["eot"])
    cosines: dict[int, float] = {}
    while True:
        cosine = _agreement(subject, draws)
        if cosine is None:
            return found(
                State.NOT_APPLICABLE,
                reason="the attack's loss has no gradient at any image: see C2 and C21",
            )
        cosines[draws] = cosine
        if cosine >= _COSINE or draws >= _CAP:
            break
        draws = min(2 * draws, _CAP)
    stable = cosine >= _COSINE
    finding = partial(
        found,
        figure=f"median cosine {cosines[asked]:.2f} with {asked} draw{'s' * (asked != 1)}"
        + (f", {cosine:.2f} with {draws}" if draws > asked else ""),
        values={"eot": draws if stable else None, "cosines": cosines},
    )
    if not stable:
        return finding(
            State.FAIL,
            reason=f"two averages of {draws} gradients still point elsewhere: the gradient "
            "is mostly noise; use more draws (attack.eot) or gradient-free attacks (square)",
        )
    if draws == asked:
        return finding(State.PASS)
    subject.settings["eot"] = draws
    return finding(
        State.WARN,
        reason=f"a gradient needs {draws} draws: the checks after this one use as many; set "
        f"attack.eot={draws} in attacks of your own",
    )


def surface_is_smooth(subject: Subject) -> Finding:
    """C20: a tenth of the radius in a random direction does not change the loss by itself.

    Of at most 16 images of the main attack, the mean of |L(x + d) - L(x)| / max(L(x), 0.001)
    over 100 directions d, random signs (Linf) or points of the sphere (L2) clipped to the box:
    over 20 where the threshold is five standard errors away. L is the cross-entropy averaged
    over as many draws as the attack's gradient, the same draws at both points. Pintor et al.
    2022 call a surface above 1 rugged.
    """
    x = subject.strong().x_adv[:16]
    draws = int(subject.settings["eot"]) if subject.defense.stochastic else 1
    loss = partial(averaged_loss, subject.view(Access.QUERY), loss=cross_entropy, draws=draws)
    rng, y = subject.rng[: len(x)], subject.images.y[: len(x)]
    before = loss(x, y, rng=rng.fork("surface")).loss.double()[:, None]
    toward = rng.fork("directions").repeat(_DIRECTIONS)
    step, norm = subject.threat.radius / 10, subject.threat.norm
    changes = before[:, :0]
    for start, stop in pairwise((0, _FIRST, _DIRECTIONS)):
        which = torch.arange(len(x) * _DIRECTIONS, device=x.device)
        which = which[(which % _DIRECTIONS >= start) & (which % _DIRECTIONS < stop)]
        rows = which // _DIRECTIONS
        moved = nudged(x[rows], norm, step, rng=toward[which])
        after = loss(moved, y[rows], rng=rng[rows].fork("surface")).loss.double()
        change = (after.reshape(len(x), -1) - before).abs() / before.clamp_min(_LEAST)
        changes = torch.cat((changes, change), dim=1)
        each = changes.mean(0)  # of a direction, over the images
        mean, error = float(each.mean()), float(each.std()) / len(each) ** 0.5
        if abs(mean - _RUGGED) > 5 * error:
            break
    rugged = not mean <= _RUGGED  # not a number is rugged too
    return Finding(
        "C20",
        "surface is smooth",
        Weight.BOUND,
        State.FAIL if rugged else State.PASS,
        figure=f"mean relative loss change {mean:.2g} (of {_LEAST} where the loss is below it)",
        threshold=f"at most {_RUGGED:g}",
        reason="the loss is rugged where the attack ended, so that a gradient says little of "
        "what is a step away: more draws (attack.eot), or an attack without gradients (square)"
        if rugged
        else "",
        values={"change": mean, "median": float(changes.mean(1).median())},
    )


def loss_is_not_saturated(subject: Subject) -> Finding:
    """C21: the cross-entropy of clean images is not rounded to 0, and its gradient with it.

    A remark, since this audit attacks with the margin: it is about attacks of one's own. Where
    it fails and an audit was told to attack with the cross-entropy, this check changes the
    subject: ``settings["loss"]`` becomes ``margin``.
    """
    seen = averaged_loss(
        subject.view(Access.QUERY),
        subject.images.x,
        subject.images.y,
        loss=cross_entropy,
        draws=1,
        rng=subject.rng.fork("saturation"),
    )
    share = float((seen.loss == 0).double().mean())
    saturated = share > _SATURATED
    if saturated and subject.settings.get("loss", "ce") == "ce":
        subject.settings["loss"] = "margin"
    return Finding(
        "C21",
        "loss is not saturated",
        Weight.REMARK,
        State.FAIL if saturated else State.PASS,
        figure=f"0 for {share:.1%}",
        threshold=f"exactly 0 for at most {_SATURATED:.0%} of the images",
        reason=f"the cross-entropy is exactly 0 in float32 for {share:.0%} of the images and "
        "attacks on it do not move: this audit attacks with the "
        f"{subject.settings['loss']}, and cells attacked with attack.loss=ce are upper bounds"
        if saturated
        else "",
        values={"saturated": share},
    )


def _agreement(subject: Subject, draws: int) -> float | None:
    """Return the median cosine of two averages of ``draws`` gradients; None without one."""
    images, rng = subject.images[:_IMAGES], subject.rng[:_IMAGES]
    first, second = (
        averaged_gradient(
            subject.view(subject.access),
            images.x,
            images.y,
            loss=LOSSES[subject.settings.get("loss", "ce")],
            draws=draws,
            rng=rng.fork("eot", draws, half),
        )
        .gradient.flatten(1)
        .double()  # squares of a sure classifier's gradients are 0 in float32
        for half in range(2)
    )
    lengths = first.norm(dim=1) * second.norm(dim=1)
    cosines = (first * second).sum(1) / lengths
    alive = cosines[lengths.isfinite() & (lengths > 0)]
    return float(alive.median()) if len(alive) else None

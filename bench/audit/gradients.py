"""Checks of the gradients that attacks follow: C2 to C4."""

from __future__ import annotations

import copy
from functools import partial

import torch
from torch import Tensor, nn

from bench.audit.findings import Finding, State, Weight, in_words
from bench.audit.subject import Subject
from bench.core.access import FullView
from bench.core.defense import Defense
from bench.core.eot import averaged_gradient
from bench.core.geometry import steepest
from bench.core.losses import margin
from bench.core.protocols import Images, View
from bench.core.rng import Rng
from bench.core.threat import Access, Norm
from bench.plugins.as_defense import draws_by_block

_SAME = 1e-6  # relative difference below which two gradients are one
_WRONG = 1e-2  # relative error above which a gradient is not the function's
_DIRECTIONS = 20  # of finite differences, per image
# Float64 is best served by the first. A purifier that rounds to float32 inside needs a longer
# one, and a wrong gradient agrees at none.
_STEPS = (1e-6, 1e-5, 1e-4)


def gradient_exists(subject: Subject) -> Finding:
    """C2: some gradient reaches every image, or the part that loses it is named."""
    about = ("C2", "gradient exists", Weight.BOUND)
    threshold = "missing, NaN or 0 for at most 1 % of the images"
    if not subject.defense.purifier.differentiable:
        return Finding(
            *about,
            State.NOT_APPLICABLE,
            threshold=threshold,
            reason="the purifier says that it has no true gradient: attacks use BPDA",
        )
    if not subject.has_gradient(Access.FULL):
        purifier = subject.has_gradient(Access.BPDA)
        return Finding(
            *about,
            State.FAIL,
            figure="100 % without",
            threshold=threshold,
            reason="no gradient leaves the purifier though it claims to be differentiable: "
            "full-gradient attacks cannot be run"
            if purifier
            else "no gradient leaves the classifier: attacks that use gradients cannot be run",
            values={"missing": 1.0, "component": "purifier" if purifier else "classifier"},
        )
    dead = _dead(margin_gradient(subject, subject.view(Access.FULL)))
    share = float(dead.float().mean())
    part = ""
    if share > 0.01:
        behind = dead & _dead(margin_gradient(subject, subject.view(Access.BPDA)))
        part = "classifier" if 2 * int(behind.sum()) > int(dead.sum()) else "purifier"
    return Finding(
        *about,
        State.FAIL if part else State.PASS,
        figure=f"{share:.1%} without",
        threshold=threshold,
        reason=f"the {part} passes no gradient on for {share:.0%} of the images"
        if part
        else "",
        values={"missing": share, "component": part},
    )


def bpda_is_not_full(subject: Subject) -> Finding:
    """C3: the full gradient knows more of the purifier than that it hands images on.

    Pixels whose full gradient is 0 do not count: a clamp to the box holds them, behind a
    piecewise linear energy as behind any other, and tells nothing of the energy.
    """
    found = partial(
        Finding,
        "C3",
        "BPDA is not the full gradient",
        Weight.BOUND,
        threshold=f"relative difference at least {_SAME:.0e}",
    )
    if why := _no_full_gradient(subject):
        return found(State.NOT_APPLICABLE, reason=why)
    x, streams = subject.images.x, subject.rng.fork("gradient")
    with torch.no_grad():
        purified = subject.defense.purify(x, rng=streams)
    if torch.equal(purified, x):
        return found(
            State.NOT_APPLICABLE,
            reason="the purifier hands every image on as it is: both gradients are right",
        )
    full = margin_gradient(subject, subject.view(Access.FULL))
    bpda = margin_gradient(subject, subject.view(Access.BPDA))
    free = full != 0
    difference = relative_error(full[free], bpda[free])
    if difference is None:
        return found(
            State.NOT_APPLICABLE, reason="the full gradient is 0 or not finite: see C2"
        )
    finding = partial(
        found,
        figure=f"relative difference {difference:.1e}",
        values={"difference": difference, "held": 1 - float(free.float().mean())},
    )
    if difference >= _SAME:
        return finding(State.PASS)
    moved = nudged(x, subject.threat.norm, subject.threat.radius, rng=subject.rng.fork("nudge"))
    free &= margin_gradient(subject, subject.view(Access.FULL), moved) != 0
    with torch.no_grad():
        shift = subject.defense.purify(moved, rng=streams) - purified
    if float(((shift - (moved - x)) * free).abs().max()) <= 1e-5:
        return finding(
            State.PASS,
            reason="the purifier adds what no image changes: both gradients are right",
        )
    return finding(
        State.FAIL,
        reason="the full gradient is the BPDA gradient though the purifier answers to larger "
        "changes: its energy is piecewise linear or detached, and the full gradient knows no "
        "more than BPDA; use smooth activations (SiLU, softplus) or differentiate the energy",
    )


def gradient_is_right(subject: Subject) -> Finding:
    """C4: the full gradient is that of the function, by central differences in float64.

    At most 8 images, drawn 5 % towards random gray: there no pixel is on the border of the
    box and no two are equal, where a clamp and a median have no derivative.
    """
    found = partial(
        Finding,
        "C4",
        "gradient is right",
        Weight.BOUND,
        threshold=f"relative error at most {_WRONG:.0e}",
    )
    if why := _no_full_gradient(subject):
        return found(State.NOT_APPLICABLE, reason=why)
    images = subject.images[:8]
    rng = subject.rng[: len(images)].fork("differences")
    gray = 0.1 + 0.8 * rng.fork("gray").uniform_like(images.x)
    images = Images(images.indices, (0.95 * images.x + 0.05 * gray).double(), images.y)
    try:
        view = FullView(in_float64(subject.defense))
        gradient = averaged_gradient(
            view, images.x, images.y, loss=margin, draws=1, rng=rng
        ).gradient
    except Exception as error:  # whatever third-party code raises for a type it did not expect
        return found(
            State.NOT_APPLICABLE,
            reason=f"the defense does not run in float64 ({in_words(error)}); "
            "keep its tensors in an nn.Module and follow the type of x",
        )
    errors = _errors(view, images, gradient, rng=rng)
    if not errors:
        return found(State.NOT_APPLICABLE, reason="the gradient is 0 or not finite: see C2")
    least = min(errors)
    finding = partial(
        found,
        figure=f"relative error {least:.1e}",
        values={"error": least, "steps": list(_STEPS[: len(errors)]), "errors": errors},
    )
    if least <= _WRONG:
        return finding(State.PASS)
    return finding(
        State.FAIL,
        reason="the classifier's gradient is not that of what it computes, with or without the "
        "purifier: correct its backward pass; no gradient attack on it is to be trusted"
        if _classifier_is_wrong(subject, images, rng=rng)
        else "the purifier's gradient is not that of what it computes: correct its backward "
        "pass, or declare it not differentiable so that attacks use BPDA",
    )


def margin_gradient(subject: Subject, view: View, x: Tensor | None = None) -> Tensor:
    """Differentiate the margin of one draw at every image or at x, both (N, C, H, W)."""
    images = subject.images
    return averaged_gradient(
        view,
        images.x if x is None else x,
        images.y,
        loss=margin,
        draws=1,
        rng=subject.rng.fork("gradient"),
    ).gradient


def nudged(x: Tensor, norm: Norm, radius: float, *, rng: Rng) -> Tensor:
    """Move x (N, C, H, W) by random signs (Linf) or on the sphere (L2), clipped to the box."""
    return (x + radius * steepest(rng.normal_like(x), norm)).clamp(0.0, 1.0)


def relative_error(a: Tensor, b: Tensor) -> float | None:
    """Return |a - b| over the larger of |a| and |b|, at most 2; None for 0 or not finite.

    The larger one, so that a gradient where there is no slope is an error of 1 and not
    infinite; for the small errors that a threshold asks for it makes no difference.
    """
    scale = max(float(a.double().norm()), float(b.double().norm()))
    if not 0 < scale < torch.inf:
        return None
    return float((a.double() - b.double()).norm()) / scale


def in_float64(defense: Defense) -> Defense:
    """Copy a defense to float64, with the tensors and networks of a plain purifier."""
    purifier = defense.purifier
    try:
        purifier = copy.deepcopy(purifier)
    except Exception:  # it holds what cannot be copied: as it is it may do
        return Defense(purifier, copy.deepcopy(defense.classifier).double())
    if isinstance(purifier, nn.Module):
        purifier.double()
    else:
        for name, value in list(getattr(purifier, "__dict__", {}).items()):
            if isinstance(value, nn.Module) or (
                isinstance(value, Tensor) and value.is_floating_point()
            ):
                object.__setattr__(purifier, name, value.double())  # also where it is frozen
    return Defense(purifier, copy.deepcopy(defense.classifier).double())


def _no_full_gradient(subject: Subject) -> str:
    """Return why there is no full gradient to check; empty where there is one."""
    if not subject.defense.purifier.differentiable:
        return "the purifier says that it has no true gradient: attacks use BPDA"
    if not subject.has_gradient(Access.FULL):
        return "the claimed gradient does not exist: see C2"
    return ""


def _errors(view: View, images: Images, gradient: Tensor, *, rng: Rng) -> list[float]:
    """Measure a gradient's error by ever longer steps, until one is small; empty for none."""
    errors: list[float] = []
    for step in _STEPS:
        miss = _difference_error(view, images, gradient, step=step, rng=rng)
        if miss is None:
            return []
        errors.append(miss)
        if miss <= _WRONG:
            break
    return errors


def _classifier_is_wrong(subject: Subject, images: Images, *, rng: Rng) -> bool:
    """Whether the bare classifier's gradient at the purified images is wrong as well."""
    with torch.no_grad():
        x = in_float64(subject.defense).purify(images.x, rng=rng)
    purified = Images(images.indices, x, images.y)
    view = FullView(in_float64(subject.bare.defense))
    gradient = averaged_gradient(view, x, images.y, loss=margin, draws=1, rng=rng).gradient
    errors = _errors(view, purified, gradient, rng=rng)
    return bool(errors) and min(errors) > _WRONG


def _difference_error(
    view: View, images: Images, gradient: Tensor, *, step: float, rng: Rng
) -> float | None:
    """Compare slopes of the margin along random directions with those of the gradient."""
    rows = torch.arange(len(images), device=images.x.device).repeat_interleave(_DIRECTIONS)
    direction = rng.fork("directions").repeat(_DIRECTIONS).normal_like(images.x[rows])
    # Noise that goes by the block is the same in the same batch only: one direction at a time.
    turns = [slice(None)]
    if isinstance(view, FullView) and draws_by_block(view.defense.purifier):
        turns = [slice(k, None, _DIRECTIONS) for k in range(_DIRECTIONS)]
    slopes, expected = [], []
    for turn in turns:
        here, along, sides = rows[turn], direction[turn], []
        with torch.no_grad():
            for sign in (1, -1):
                logits = view(images.x[here] + sign * step * along, rng=rng[here])
                sides.append(margin(logits, images.y[here]))
        slopes.append((sides[0] - sides[1]) / (2 * step))
        expected.append((gradient[here] * along).flatten(1).sum(1))
    return relative_error(torch.cat(slopes), torch.cat(expected))


def _dead(gradient: Tensor) -> Tensor:
    flat = gradient.flatten(1)
    return flat.isnan().any(1) | (flat == 0).all(1)

"""Checks of the gradients that attacks climb: C2 to C5, C20 and C21."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.audit.findings import Finding, State, Weight
from bench.audit.subject import Subject
from bench.losses import margin
from bench.protocols import View
from bench.threat import Access


def gradient_exists(subject: Subject) -> Finding:
    """C2: some gradient reaches every image, or the part that swallows it is named."""
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
        return Finding(
            *about,
            State.FAIL,
            figure="100 % without",
            threshold=threshold,
            reason="no gradient leaves the purifier though it claims to be differentiable: "
            "full-gradient attacks cannot be run",
            values={"missing": 1.0, "component": "purifier"},
        )
    dead = _dead(margin_gradient(subject, subject.view(Access.FULL)))
    share = float(dead.float().mean())
    part = ""
    if share > 0.01:
        behind = _dead(margin_gradient(subject, subject.view(Access.BPDA)))
        part = "classifier" if float(behind.float().mean()) > 0.01 else "purifier"
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


def margin_gradient(subject: Subject, view: View) -> Tensor:
    """Differentiate the margin of one draw at every image, (N, C, H, W)."""
    x = subject.images.x.detach().requires_grad_()
    logits = view(x, rng=subject.rng.fork("gradient"))
    (gradient,) = torch.autograd.grad(margin(logits, subject.images.y).sum(), x)
    return gradient


def _dead(gradient: Tensor) -> Tensor:
    flat = gradient.flatten(1)
    return flat.isnan().any(1) | (flat == 0).all(1)

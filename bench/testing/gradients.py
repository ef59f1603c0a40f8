"""Whether a purifier's gradient is what it says: compared with finite differences."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.core.isolation import isolated
from bench.testing.defenses import DefenseSubject
from bench.testing.material import inner, streams
from bench.testing.outcome import Check, Fails, NotApplicable

_STEPS = {torch.float64: (1e-7, 1e-5), torch.float32: (3e-3, 1e-2)}
_TOLERANCE = {torch.float64: 1e-4, torch.float32: 5e-2}  # of the gradient's length
_DIRECTIONS, _MOST = 3, 0.8  # of images and directions: some may lie at a kink


def gradient_is_as_declared(subject: DefenseSubject) -> None:
    """Compare autograd with finite differences; `differentiable` is true where they agree."""
    x = inner(subject.x)
    weight = inner(subject.x).flip(0) - 0.5
    gradient = _gradient(subject, x, weight)
    agrees = (
        gradient is not None and bool(gradient.any()) and _agrees(subject, x, weight, gradient)
    )
    if subject.purifier.differentiable:
        _declared_true(gradient, agrees=agrees)
    elif agrees:
        raise Fails(
            "no true gradient, since differentiable is False",
            found="that autograd gives the one that finite differences measure",
            remedy="Write differentiable = True: attacks with full access are refused now, and "
            "robust accuracy would look too high.",
        )


def _declared_true(gradient: Tensor | None, *, agrees: bool) -> None:
    expected = "the gradient that finite differences measure, since differentiable is True"
    if gradient is None:
        raise Fails(
            expected,
            found="that none reaches the images",
            remedy="Stay in torch, without detach() and no_grad(), or write differentiable = "
            "False: attacks then take the identity for it (BPDA).",
        )
    if not gradient.any():
        raise Fails(
            expected,
            found="0 for every pixel",
            remedy="Rounding has no gradient: write differentiable = False.",
        )
    if not agrees:
        raise Fails(
            expected,
            found="another one from autograd",
            remedy="A part is detached, or its backward is not its forward's. Repair that, or "
            "write differentiable = False.",
        )


def gradient_is_finite(subject: DefenseSubject) -> None:
    """Take the gradient of flat images, where roots and norms have none."""
    if not subject.purifier.differentiable:
        raise NotApplicable("it has no gradient (differentiable is False)")
    for level in (0.0, 0.5, 1.0):
        x = torch.full_like(subject.x[:2], level)
        gradient = _gradient(subject, x, 2 * x + 1)
        if gradient is not None and not gradient.isfinite().all():
            raise Fails(
                "a finite gradient everywhere",
                found=f"NaN or infinity for a flat image of {level}",
                remedy="Add a small number under the root or in the denominator: attacks lose "
                "their way at NaN.",
            )


def _gradient(subject: DefenseSubject, x: Tensor, weight: Tensor) -> Tensor | None:
    leaf = x.clone().requires_grad_()
    with isolated(0), torch.enable_grad():
        score = (subject.defense.purify(leaf, rng=streams(len(x))) * weight).sum()
        if not score.requires_grad:
            return None
        (gradient,) = torch.autograd.grad(score, leaf, allow_unused=True)
    return gradient


def _agrees(subject: DefenseSubject, x: Tensor, weight: Tensor, gradient: Tensor) -> bool:
    """Whether slopes agree in most images and directions, at one size of step at least."""

    def score(at: Tensor) -> Tensor:
        return (subject.purify(at) * weight).double().flatten(1).sum(1)

    generator = torch.Generator().manual_seed(2)
    ways = torch.randn((_DIRECTIONS, *x.shape), generator=generator, dtype=torch.float64)
    length = gradient.double().flatten(1).norm(dim=1)
    for step in _STEPS[x.dtype]:
        close = []
        for way in ways.to(x.dtype):
            slope = (gradient * way).double().flatten(1).sum(1)
            measured = (score(x + step * way) - score(x - step * way)) / (2 * step)
            close.append((slope - measured).abs() <= _TOLERANCE[x.dtype] * length)
        if float(torch.cat(close).double().mean()) >= _MOST:
            return True
    return False


GRADIENTS: tuple[Check[DefenseSubject], ...] = (
    Check("`differentiable` is true", gradient_is_as_declared),
    Check("the gradient of flat images is finite", gradient_is_finite),
)

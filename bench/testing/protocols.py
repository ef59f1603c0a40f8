"""What a purifier may offer beyond purify: each check compares it with purify itself."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from bench.core.border import images_like
from bench.core.defense import Defense
from bench.core.isolation import isolated
from bench.core.networks import modules_in
from bench.core.passes import count_passes
from bench.core.protocols import (
    CoarsePurifier,
    EnergyPurifier,
    NoisyPurifier,
    Purifier,
    SharingPurifier,
    SteppedPurifier,
    fits,
)
from bench.testing.defenses import DefenseSubject
from bench.testing.material import inner, streams
from bench.testing.outcome import Check, Fails, NotApplicable
from bench.testing.trainings import training_goes_on

_FACTOR = 2
_REPEATS = 40  # of seven images: the mean of noise is then known well enough
_ERRORS = 6.0  # standard errors of that mean
_CLIPPED = 0.1  # of the noise: what clipping it to [0, 1] may move


def draws_are_draws(subject: DefenseSubject) -> None:
    """Compare purify_draws with purify on repeated images."""
    purifier = subject.purifier
    if not fits(purifier, SharingPurifier):
        raise NotApplicable("it has no purify_draws")
    rng = streams(len(subject.x)).repeat(3)
    together = subject.purify(subject.x, rng)
    repeated = subject.purify(subject.x.repeat_interleave(3, dim=0), rng)
    if subject.differ(together, repeated):
        raise Fails(
            "purify_draws to give what purify gives for repeated images",
            found=f"a difference of {float((together - repeated).abs().max()):.2g}",
            remedy="Share only what no noise enters; draws of an image are side by side.",
        )


def a_step_is_a_step(subject: DefenseSubject) -> None:
    """Take single steps."""
    purifier = subject.purifier
    if not fits(purifier, SteppedPurifier):
        raise NotApplicable("it has no step")
    x = subject.x

    def step() -> Tensor:
        with isolated(0), torch.no_grad():
            found = purifier.step(x.clone(), rng=streams(len(x)))
        return images_like(found, x, rows=len(x), whose="step")

    first = step()
    if not first.isfinite().all():
        raise Fails(
            "finite pixels after a step", found="NaN or infinity", remedy="Look at its size."
        )
    if subject.differ(first, step()):
        raise Fails(
            "the same step from the same rng",
            found="another one",
            remedy="Draw from rng in step, too, and keep nothing from call to call.",
        )


def coarser_is_cheaper(subject: DefenseSubject) -> None:
    """Count the passes of the coarser purifier, on the same networks."""
    purifier = subject.purifier
    if not fits(purifier, CoarsePurifier):
        raise NotApplicable("it has no coarser")
    coarse = purifier.coarser(_FACTOR)
    if not fits(coarse, Purifier):
        raise Fails(
            "a purifier from coarser(2)",
            found=f"{type(coarse).__name__}, which has no purify, stochastic or differentiable",
            remedy="Return a purifier of fewer steps.",
        )
    own = {id(part) for network in modules_in(purifier) for part in network.modules()}
    held = list(coarse.children()) if isinstance(coarse, nn.Module) else modules_in(coarse)
    if any(id(one) not in own for one in held):
        raise Fails(
            "coarser(2) to use the same networks",
            found="copies or others, whose passes would not be counted",
            remedy="Hand the networks on as they are.",
        )
    spent = [_passes(subject, one) for one in (purifier, coarse)]
    if spent[1] > spent[0]:
        raise Fails(
            "coarser(2) to be cheaper",
            found=f"{spent[1]} passes where the whole takes {spent[0]}",
            remedy="Divide the number of steps by the factor.",
        )


def _passes(subject: DefenseSubject, purifier: Purifier) -> int:
    whole = replace(subject, defense=Defense(purifier, subject.defense.classifier))
    with count_passes(subject.defense.networks()) as passes:
        whole.purify(subject.x)
    return sum(passes.values())


def noise_is_alone(subject: DefenseSubject) -> None:
    """Look whether the noise leaves an image where it is, on average."""
    purifier = subject.purifier
    if not fits(purifier, NoisyPurifier):
        raise NotApplicable("it has no noise_alone")
    noisy = purifier.noise_alone()
    if not fits(noisy, Purifier):
        raise Fails(
            "a purifier from noise_alone()",
            found=f"{type(noisy).__name__}, which has no purify, stochastic or differentiable",
            remedy="Return the purifier with the identity in place of all but its noise.",
        )
    # Darker than gray, so that a pull towards gray shows, and far from where noise is clipped.
    x = (0.1 + 0.5 * inner(subject.x)).repeat(_REPEATS, 1, 1, 1)
    whole = replace(subject, defense=Defense(noisy, subject.defense.classifier))
    moved = (whole.purify(x, streams(len(x))) - x).double()
    spread = float(moved.std())
    allowed = spread * (_ERRORS / moved.numel() ** 0.5 + _CLIPPED) + subject.tolerance
    if not abs(float(moved.mean())) <= allowed:
        raise Fails(
            "noise_alone() to add noise around the image",
            found=f"that pixels move by {float(moved.mean()):.2g} on average",
            remedy="Leave out everything but the noise: no network, no contraction.",
        )


def energy_is_one_number_per_image(subject: DefenseSubject) -> None:
    """Evaluate the energy and its gradient."""
    purifier = subject.purifier
    if not fits(purifier, EnergyPurifier):
        raise NotApplicable("it has no energy")
    x = subject.x.clone().requires_grad_()
    with torch.enable_grad():
        found = purifier.energy(x)
        if not isinstance(found, Tensor) or tuple(found.shape) != (len(x),):
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise Fails(
                f"an energy of shape ({len(x)},) for {len(x)} images",
                found=f"{shape}",
                remedy="Sum over pixels, not over images.",
            )
        gradient = torch.autograd.grad(found.sum(), x)[0] if found.requires_grad else None
    alone = torch.cat([purifier.energy(row[None]) for row in subject.x]).detach()
    if gradient is None or not (gradient.isfinite().all() and gradient.any()):
        raise Fails(
            "a finite gradient of the energy",
            found="none, 0 everywhere, or NaN",
            remedy="Compute it in torch from the images, without detach().",
        )
    scale = 1 + float(found.detach().abs().max())
    if subject.differ(alone / scale, found.detach() / scale):
        raise Fails(
            "an energy that does not depend on the batch",
            found="another one for an image alone",
            remedy="Use no statistics of the batch.",
        )


def the_training_goes_on(subject: DefenseSubject) -> None:
    """Save a training and go on."""
    training_goes_on(subject.plugin, subject.material)


PROTOCOLS: tuple[Check[DefenseSubject], ...] = (
    Check("draws with shared work are draws", draws_are_draws),
    Check("a step is repeatable", a_step_is_a_step),
    Check("a coarser process is cheaper, on the same networks", coarser_is_cheaper),
    Check("its noise alone moves nothing on average", noise_is_alone),
    Check("its energy is one number per image", energy_is_one_number_per_image),
    Check("its training goes on from a saved state", the_training_goes_on),
)

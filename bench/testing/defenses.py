"""The contract of a purifier: each check is a function of what it is tried on."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from bench.core.defense import Defense
from bench.core.isolation import generator_states, isolated
from bench.core.networks import digest_of_weights, modules_in
from bench.core.passes import count_passes
from bench.core.protocols import Purifier, fits
from bench.core.rng import Rng
from bench.experiments.prepare import no_purifier
from bench.models.trainable import MakesPurifier, TrainablePurifier
from bench.plugins.measured import measure
from bench.testing.material import Linear, Material, streams
from bench.testing.outcome import Check, Fails, NotApplicable
from bench.testing.things import is_written_down, label_of, made
from bench.testing.trainings import begun

FAR = 10.0  # as the judge's: noise may leave [0, 1], pixels from 0 to 255 are another scale


@dataclass(frozen=True)
class DefenseSubject:
    """A plugin with its purifier in front of a linear classifier, and images to try it on.

    ``tolerance``: differences up to it are rounding. It is that of float64 where the purifier
    runs in float64: then ``defense`` and ``material`` are float64, and ``single`` is what runs
    in an evaluation.
    """

    label: str
    plugin: Any
    single: Defense
    defense: Defense
    material: Material
    tolerance: float

    @property
    def purifier(self) -> Purifier:
        """What is checked."""
        return self.defense.purifier

    @property
    def x(self) -> Tensor:
        """Images (7, C, H, W)."""
        return self.material.x

    @property
    def by_block(self) -> bool:
        """Whether its noise is known to depend on the batch."""
        return bool(getattr(self.purifier, "by_block", False))

    def purify(self, x: Tensor, rng: Rng | None = None, *, seed: int = 0) -> Tensor:
        """Clean x (N, C, H, W); ``seed`` is that of all generators beside ``rng``."""
        with isolated(seed), torch.no_grad():
            return self.defense.purify(x, rng=streams(len(x)) if rng is None else rng)

    def differ(self, one: Tensor, other: Tensor) -> bool:
        """Whether two results differ by more than rounding."""
        return not bool(((one - other).abs() <= self.tolerance).all())


def defense_subject(
    thing: object, material: Material, *, dataset: str, settings: Mapping[str, Any]
) -> DefenseSubject:
    """Make what is checked of a name or an object; raises BenchError."""
    plugin = made("defenses", thing, dataset=dataset, settings=settings)
    purifier: Any = plugin
    if isinstance(plugin, TrainablePurifier):
        run = begun(plugin, material)
        run.advance()
        purifier = plugin.load(run.weights(), shape=material.shape)
    elif isinstance(plugin, MakesPurifier):
        purifier = plugin.purifier(shape=material.shape)
    if not fits(purifier, Purifier):
        raise no_purifier(label_of(thing), purifier)
    defense = Defense(purifier, Linear(material.shape, material.classes))
    subject = DefenseSubject(label_of(thing), plugin, defense, defense, material, 1e-3)
    return _in_double(subject) or subject


def _in_double(subject: DefenseSubject) -> DefenseSubject | None:
    """Try the purifier in float64, where rounding hides nothing; None where it cannot."""
    try:
        defense, double = copy.deepcopy(subject.defense).double(), subject.material.double()
        if isinstance(defense.purifier, nn.Module):
            defense.purifier.double()
        with isolated(0), torch.no_grad():
            found = defense.purifier.purify(double.x, rng=streams(len(double.x)))
    except Exception:  # whatever it raises, float32 is what it is made for
        return None
    if not isinstance(found, Tensor) or found.dtype != torch.float64:
        return None
    return replace(subject, defense=defense, material=double, tolerance=1e-8)


def has_its_networks(subject: DefenseSubject) -> None:
    """Look for networks that it calls and does not hold."""
    measure(subject.purifier, subject.x, label=f"the defense {subject.label}", held=True)


def parameters_are_written_down(subject: DefenseSubject) -> None:
    """Check what a cell keeps of it."""
    is_written_down(subject.plugin)


def makes_images_of_images(subject: DefenseSubject) -> None:
    """Look at shape, type and device: the border raises where they are wrong."""
    _single(subject)


def _single(subject: DefenseSubject) -> Tensor:
    x = subject.x.float()
    with isolated(0), torch.no_grad():
        return subject.single.purify(x, rng=streams(len(x)))


def makes_finite_images(subject: DefenseSubject) -> None:
    """Look for NaN, and for pixels of another scale."""
    found = _single(subject)
    names = ("black", "white", "random", "random", "black and white", "real", "real")
    wrong = [name for name, row in zip(names, found, strict=True) if not row.isfinite().all()]
    if wrong:
        raise Fails(
            "finite pixels",
            found=f"NaN or infinity for images that are {', '.join(dict.fromkeys(wrong))}",
            remedy="Look for a division by a spread of 0, a root or a logarithm.",
        )
    low, high = float(found.min()), float(found.max())
    if max(-low, high) > FAR:
        raise Fails(
            "images in [0, 1], beyond which noise may go a little",
            found=f"pixels from {low:.3g} to {high:.3g}",
            remedy="Divide by 255 where it works on bytes, and undo a normalization.",
        )


def same_streams_give_the_same(subject: DefenseSubject) -> None:
    """Repeat a call."""
    if subject.differ(subject.purify(subject.x), subject.purify(subject.x)):
        raise Fails(
            "the same images from the same rng",
            found="other images at the second call",
            remedy="Keep nothing from one call to the next.",
        )


def chance_comes_from_rng(subject: DefenseSubject) -> None:
    """Look at the generators of torch, numpy and Python."""
    if subject.by_block:
        raise NotApplicable(
            "it takes no rng: its noise is repeatable, but depends on the batch, and rows say "
            "so (noise by block). Take `rng` as an argument for noise of each image"
        )
    first, other = (subject.purify(subject.x, seed=seed) for seed in (0, 1))
    with isolated(0), torch.no_grad():
        before = generator_states()
        subject.defense.purify(subject.x, rng=streams(len(subject.x)))
        drew = generator_states() != before
    if drew or subject.differ(first, other):
        raise Fails(
            "chance from rng only",
            found="that it draws from torch's, numpy's or Python's own generator",
            remedy="Use rng.normal_like(x) or rng.uniform_like(x): they depend on the image, "
            "not on its batch.",
        )


def stochastic_is_true(subject: DefenseSubject) -> None:
    """Compare what two streams give with what it says."""
    x, says = subject.x, subject.purifier.stochastic
    first = subject.purify(x, seed=0)
    other = subject.purify(x, streams(len(x), seed=1), seed=1)
    differs = not torch.equal(first, other)
    if differs and not says:
        raise Fails(
            "the same images from every rng, since stochastic is False",
            found="other images from another rng",
            remedy="Write stochastic: ClassVar[bool] = True, or one draw would decide.",
        )
    if says and not differs:
        raise Fails(
            "other images from another rng, since stochastic is True",
            found="the same images",
            remedy="Use rng, or write stochastic = False: every draw has its price.",
        )


def rows_are_independent(subject: DefenseSubject) -> None:
    """Compare images with the same images alone, and in another order."""
    if subject.by_block:
        raise NotApplicable("it takes no rng, so that its noise depends on the batch")
    x, rng = subject.x, streams(len(subject.x))
    together = subject.purify(x, rng)
    if subject.differ(subject.purify(x, rng, seed=1), together):
        raise NotApplicable("not all of its chance comes from rng")
    order = torch.arange(len(x)).flip(0)
    alone = torch.cat([subject.purify(x[i : i + 1], rng[i : i + 1]) for i in range(len(x))])
    for found, how in ((subject.purify(x[order], rng[order])[order], "in another order"),
                       (alone, "alone")):  # fmt: skip
        if subject.differ(found, together):
            raise Fails(
                "an image to become the same in every batch",
                found=f"a difference of {float((found - together).abs().max()):.2g} {how}",
                remedy="Use no statistics of the batch; draw noise from rng, a stream a row.",
            )


def works_with_any_number_of_images(subject: DefenseSubject) -> None:
    """Try a single image, seven, and three draws of each."""
    for n, draws in ((1, 1), (7, 1), (1, 3), (7, 3)):
        x = subject.x[:n]
        with isolated(0), torch.no_grad():
            subject.defense.classify(subject.defense.purify(x, rng=streams(n).repeat(draws)))


def graphs_end_here(subject: DefenseSubject) -> None:
    """Compare results with and without gradients; look for a graph that nobody asked for."""
    x = subject.x
    plain = subject.purify(x)
    with isolated(0), torch.enable_grad():
        unasked = subject.defense.purify(x, rng=streams(len(x)))
    with isolated(0), torch.enable_grad():
        traced = subject.defense.purify(x.clone().requires_grad_(), rng=streams(len(x)))
    if subject.differ(traced.detach(), plain):
        raise Fails(
            "the same images with torch's gradients on and off",
            found=f"a difference of {float((traced.detach() - plain).abs().max()):.2g}",
            remedy="Compute the same in both; a gradient inside needs torch.enable_grad().",
        )
    if unasked.requires_grad:
        raise Fails(
            "no graph where the images need no gradient",
            found="one",
            remedy="Detach what is differentiated inside where x does not require a gradient.",
        )


def copies_are_the_same(subject: DefenseSubject) -> None:
    """Compare with a copy."""
    copied = replace(subject, defense=copy.deepcopy(subject.defense))
    if subject.differ(copied.purify(subject.x), subject.purify(subject.x)):
        raise Fails(
            "the same images from a copy (copy.deepcopy)",
            found="other images",
            remedy="Keep what it needs in attributes, not in globals that change.",
        )


def weights_are_identified(subject: DefenseSubject) -> None:
    """Look at the digest of its weights, before and after work."""
    if not modules_in(subject.purifier):
        raise NotApplicable("it has no networks")
    before = digest_of_weights(subject.purifier)
    if before is None:
        raise NotApplicable("its networks have no weights")
    subject.purify(subject.x)
    if digest_of_weights(subject.purifier) != before:
        raise Fails(
            "that its weights stay as they are at work",
            found="another digest of them after a call",
            remedy="Keep no counters or averages in parameters and buffers.",
        )


def passes_are_counted(subject: DefenseSubject) -> None:
    """Count the passes of its networks."""
    names = set(subject.defense.networks()) - {"classifier"}
    if digest_of_weights(subject.purifier) is None:
        raise NotApplicable("it has no networks")
    with count_passes(subject.defense.networks()) as passes:
        subject.purify(subject.x)
    uncounted = sorted(name for name in names if not passes[f"{name} forward"])
    if len(uncounted) == len(names):
        raise Fails(
            "passes of its networks in a call",
            found=f"no call of {', '.join(uncounted)}",
            remedy="Call the network itself, net(x) and not net.forward(x), or remove it.",
        )


FIRST: tuple[Check[DefenseSubject], ...] = (
    Check("its parameters are written down", parameters_are_written_down),
    Check("images in, images of the same shape out", makes_images_of_images, needed=True),
    Check("every network that it calls is found", has_its_networks, needed=True),
    Check("pixels are finite and on the scale of images", makes_finite_images, needed=True),
    Check("the same rng gives the same images", same_streams_give_the_same, needed=True),
    Check("all chance comes from rng", chance_comes_from_rng),
    Check("`stochastic` is true", stochastic_is_true),
    Check("an image does not depend on its batch", rows_are_independent),
    Check("any number of images and draws", works_with_any_number_of_images),
    Check("gradients on or off, the result is the same", graphs_end_here),
    Check("a copy does the same", copies_are_the_same),
    Check("its weights are identified and stay", weights_are_identified),
    Check("its passes are counted", passes_are_counted),
)

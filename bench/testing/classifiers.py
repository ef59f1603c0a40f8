"""The contract of a classifier: logits of images, the same in every batch."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.core.border import logits_of
from bench.core.isolation import isolated
from bench.core.networks import digest_of_weights, frozen
from bench.errors import PluginError
from bench.models.trainable import TrainableClassifier
from bench.testing.material import Material
from bench.testing.outcome import Check, Fails, NotApplicable
from bench.testing.things import is_written_down, label_of, made
from bench.testing.trainings import begun, training_goes_on

_ROUNDING = 1e-3  # of the largest logit: float32 in batches of other sizes


@dataclass(frozen=True)
class ClassifierSubject:
    """A plugin with its network, in evaluation mode, and images to try it on."""

    label: str
    plugin: Any
    net: nn.Module
    material: Material

    def logits(self, x: Tensor, *, seed: int = 0) -> Tensor:
        """Return the logits of x (N, C, H, W)."""
        with isolated(seed), torch.no_grad():
            return logits_of(self.net, x)

    def differ(self, one: Tensor, other: Tensor) -> bool:
        """Whether two results differ by more than rounding."""
        scale = 1 + float(other.abs().max())
        return not bool(((one - other).abs() <= _ROUNDING * scale).all())


def classifier_subject(
    thing: object, material: Material, *, dataset: str, settings: Mapping[str, Any]
) -> ClassifierSubject:
    """Make what is checked of a name or an object; raises BenchError."""
    plugin = made("classifiers", thing, dataset=dataset, settings=settings)
    return ClassifierSubject(label_of(thing), plugin, _net(plugin, material), material)


def _net(plugin: Any, material: Material) -> nn.Module:
    given: dict[str, Any] = {"shape": material.shape, "classes": material.classes}
    with isolated(0):
        if isinstance(plugin, TrainableClassifier):
            run = begun(plugin, material)
            run.advance()
            net = plugin.load(run.weights(), **given)
        else:
            net = plugin.network(**given)
    if not isinstance(net, nn.Module):
        raise PluginError(
            f"it makes a {type(net).__name__}, not a network. Return an nn.Module from images "
            "(N, C, H, W) in [0, 1] to logits (N, K)."
        )
    return frozen(copy.deepcopy(net))


def parameters_are_written_down(subject: ClassifierSubject) -> None:
    """Check what a cell keeps of it."""
    is_written_down(subject.plugin)


def makes_logits_of_images(subject: ClassifierSubject) -> None:
    """Look at the shape: one row for each image, and a column for each class at least."""
    found = subject.logits(subject.material.x)
    if found.shape[1] < subject.material.classes:
        raise Fails(
            f"a logit for each of the {subject.material.classes} classes of the data set",
            found=f"{found.shape[1]}",
            remedy="Take `classes` as an argument, or check it with --dataset of its own.",
        )


def logits_are_finite(subject: ClassifierSubject) -> None:
    """Look for NaN in the logits of black, white, random and real images."""
    if not subject.logits(subject.material.x).isfinite().all():
        raise Fails(
            "finite logits of all images, also black and white ones",
            found="NaN or infinity",
            remedy="Look for a division by a spread of 0, and at its weights.",
        )


def the_same_again(subject: ClassifierSubject) -> None:
    """Repeat a call under other states of the generators."""
    first, other = (subject.logits(subject.material.x, seed=seed) for seed in (0, 1))
    if subject.differ(first, other):
        raise Fails(
            "the same logits of the same images",
            found="other ones at the second call",
            remedy="Use nn.Dropout and not F.dropout(x), and keep nothing from call to call.",
        )


def rows_are_independent(subject: ClassifierSubject) -> None:
    """Compare images with the same images alone."""
    x = subject.material.x
    together, alone = subject.logits(x), torch.cat([subject.logits(row[None]) for row in x])
    if subject.differ(alone, together):
        raise Fails(
            "logits of an image that do not depend on its batch",
            found=f"a difference of {float((alone - together).abs().max()):.2g} for one alone",
            remedy="Let batch norm follow net.eval(); use no other statistics of the batch.",
        )


def has_a_gradient(subject: ClassifierSubject) -> None:
    """Take the gradient of the logits by the images."""
    x = subject.material.x.clone().requires_grad_()
    with torch.enable_grad():
        found = logits_of(subject.net, x)
        (gradient,) = (
            torch.autograd.grad(found.square().sum(), x, allow_unused=True)
            if found.requires_grad
            else (None,)
        )
    if gradient is None or not (gradient.isfinite().all() and gradient.any()):
        raise Fails(
            "a finite gradient by the images",
            found="none, 0 everywhere, or NaN",
            remedy="Stay in torch, without detach() and no_grad(): attacks need it.",
        )


def weights_are_identified(subject: ClassifierSubject) -> None:
    """Make it twice and compare the digests, also after work."""
    before = digest_of_weights(subject.net)
    if before is None:
        raise NotApplicable("it has no weights")
    subject.logits(subject.material.x)
    if digest_of_weights(subject.net) != before:
        raise Fails(
            "that its weights stay as they are at work",
            found="another digest of them after a call",
            remedy="Keep no counters or averages in parameters and buffers.",
        )
    if digest_of_weights(_net(subject.plugin, subject.material)) != before:
        raise Fails(
            "the same weights each time that it is made",
            found="others the second time",
            remedy="Load them from a file, or draw them from a generator with a seed.",
        )


def the_training_goes_on(subject: ClassifierSubject) -> None:
    """Save a training and go on."""
    training_goes_on(subject.plugin, subject.material)


CLASSIFIERS: tuple[Check[ClassifierSubject], ...] = (
    Check("its parameters are written down", parameters_are_written_down),
    Check("images in, logits out", makes_logits_of_images, needed=True),
    Check("logits are finite", logits_are_finite, needed=True),
    Check("the same images give the same logits", the_same_again, needed=True),
    Check("an image does not depend on its batch", rows_are_independent),
    Check("a gradient reaches the images", has_a_gradient),
    Check("its weights are identified and stay", weights_are_identified),
    Check("its training goes on from a saved state", the_training_goes_on),
)

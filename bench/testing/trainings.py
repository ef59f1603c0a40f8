"""The contract of a training: it goes on from a saved state as if nothing had happened."""

from __future__ import annotations

import io
from typing import Any

import torch
from torch import Tensor

from bench.errors import PluginError
from bench.models.trainable import Task, Trainable, Training
from bench.testing.material import Linear, Material
from bench.testing.outcome import Fails, NotApplicable

_ATTACKED = 8  # images that stand for AutoAttack's


def begun(plugin: Trainable, material: Material) -> Training:
    """Start a training on a few images; raises PluginError where there are none."""
    if material.train is None:
        raise PluginError(
            "it is trained, and the data set has no training images. Check it with --dataset "
            "digits."
        )
    train = material.train
    return plugin.start(
        Task(
            train=train,
            validation=train,
            classes=material.classes,
            device=torch.device("cpu"),
            classifier=Linear(material.shape, material.classes)
            if plugin.needs_classifier
            else None,
            adversarial=None if plugin.negatives() is None else train.x[:_ATTACKED].flip(0),
        )
    )


def training_goes_on(plugin: Any, material: Material) -> None:
    """Compare two steps with one step, a saved state, and one more."""
    if not isinstance(plugin, Trainable):
        raise NotApplicable("nothing is trained")
    whole = begun(plugin, material)
    first = whole.step
    whole.advance()
    if whole.step != first + 1:
        raise Fails(
            "step to be one more after advance()",
            found=f"{whole.step} after {first}",
            remedy="Add 1 to self.step in advance().",
        )
    packed = io.BytesIO()
    torch.save(whole.state(), packed)
    whole.advance()
    packed.seek(0)
    again = begun(plugin, material)
    # As the harness reads it: only tensors, numbers, lists and dicts.
    again.restore(torch.load(packed, weights_only=True))
    if again.step == first:
        raise Fails(
            "the step to be restored",
            found=f"{again.step} after restore()",
            remedy="Put step into state() and read it in restore().",
        )
    again.advance()
    other = [
        name for name in whole.weights() if not _equal(whole.weights(), again.weights(), name)
    ]
    if other:
        raise Fails(
            "the same weights where a training goes on from its saved state",
            found=f"others in {', '.join(other[:3])}",
            remedy="Put all that advance() uses into state(): optimizers, averages. Draw "
            "batches from a generator that is seeded by seed and step.",
        )


def _equal(one: Any, other: Any, name: str) -> bool:
    mine, theirs = one[name], other.get(name)
    return isinstance(theirs, Tensor) and torch.equal(mine, theirs)

"""Whether the audit sees deliberately broken defenses, each beside an honest twin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from torch import nn

from bench.audit.controls import not_only_randomness
from bench.audit.findings import Finding, State
from bench.audit.gradients import bpda_is_not_full, gradient_exists
from bench.audit.loss_surface import loss_is_not_saturated
from bench.audit.run import open_subject
from bench.audit.subject import Subject
from bench.audit.toys import (
    LeakyEnergy,
    NoGradient,
    Quantizer,
    RandomShift,
    Saturated,
    Untouched,
)
from bench.calibration.purifiers import Affine, Noisy
from bench.core.defense import Defense
from bench.core.protocols import Purifier
from bench.results.cell import Part, Request
from bench.results.progress import Progress, Work
from bench.results.workspace import Workspace

Shape = tuple[int, int, int]
IMAGES = 64
WHAT = "planted traps"
_SETTINGS = {"steps": 8, "eot": 5, "loss": "ce"}


class Smooth(LeakyEnergy):
    """The honest twin of a Langevin purifier on a piecewise linear energy."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        for name, layer in list(self.energy.named_children()):
            if isinstance(layer, nn.LeakyReLU):
                setattr(self.energy, name, nn.SiLU())


# The honest twins of a staircase and of randomness: a purifier of less contrast that has a
# gradient, and noise that no attack has to know.
CONTRAST = Affine(0.8, 0.1)
LITTLE_NOISE = Noisy(0.01)


@dataclass(frozen=True)
class Trap:
    """A planted ``trap`` and its honest ``twin`` before a classifier, and the check for it."""

    name: str
    check: Callable[[Subject], Finding]
    trap: Callable[[Shape], Purifier]
    twin: Callable[[Shape], Purifier]
    saturated: bool = False


TRAPS = (
    Trap("purifier without a gradient", gradient_exists, lambda _: NoGradient(),
         lambda _: CONTRAST),
    Trap("quantizer of 3 bits", gradient_exists, lambda _: Quantizer(3), lambda _: CONTRAST),
    Trap("saturated loss", loss_is_not_saturated, lambda _: Untouched(), lambda _: Untouched(),
         saturated=True),
    Trap("randomness as defense", not_only_randomness, lambda _: RandomShift(1),
         lambda _: LITTLE_NOISE),
    Trap("LeakyReLU energy", bpda_is_not_full, LeakyEnergy, Smooth),
)  # fmt: skip


@dataclass(frozen=True)
class Named:
    """What a check said of a trap (``found``) and of its honest twin (``honest``)."""

    trap: str
    found: Finding
    honest: Finding

    @property
    def passes(self) -> bool:
        """Whether the trap fails its check, to which its twin gives no cause."""
        honest = self.honest.state not in (State.FAIL, State.WARN)
        return self.found.state is State.FAIL and honest


def spring(*, workspace: Workspace) -> Work[list[Named]]:
    """Set every trap before the classifier of digits, trained where it is missing."""
    request = Request(
        defense="none", attack="apgd", eps=Fraction(15, 100), n=IMAGES, shard=IMAGES, draws=20,
        settings={"attack": _SETTINGS},
    )  # fmt: skip
    subject = yield from open_subject(request, workspace=workspace)
    results = []
    for done, trap in enumerate(TRAPS):
        yield Progress(WHAT, done, len(TRAPS), note=trap.name, unit="defenses")
        channels, height, width = subject.images.x.shape[1:]
        shape = (channels, height, width)
        planted, honest = trap.trap(shape), trap.twin(shape)
        classifier = subject.defense.classifier
        caught = Saturated(classifier) if trap.saturated else classifier
        results.append(
            Named(
                trap.name,
                trap.check(_behind(subject, trap.name, planted, caught)),
                trap.check(_behind(subject, f"honest: {trap.name}", honest, classifier)),
            )
        )
    yield Progress(WHAT, len(TRAPS), len(TRAPS), unit="defenses")
    return results


def _behind(subject: Subject, name: str, purifier: Purifier, classifier: nn.Module) -> Subject:
    """Audit another defense on the same images."""
    defense = Defense(purifier, classifier).to(subject.workspace.device)
    cell = replace(subject.base.cell, defense=Part(name, {}, 1))
    base = replace(subject.base, cell=cell, defense=defense)
    settings: dict[str, Any] = dict(subject.settings)
    return Subject(base, subject.workspace, subject.results, settings)

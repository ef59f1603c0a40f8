"""Every defense with a small network of random weights, here and on the simulated device."""

from __future__ import annotations

import copy
import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.core.defense import Defense
from bench.core.protocols import Images
from bench.models.trainable import Task, Trainable
from bench.plugins.catalogue import catalogue, plugin
from bench_defenses.classifiers.small_cnn import SmallCnnNet
from bench_defenses.museum.ffdnet import DenoisedSmoothing, FFDNet
from bench_defenses.museum.lippe import CourseEnergy, CourseNet, CoursePurifier
from bench_defenses.museum.mandal import NoisyAutoencoder
from tests.device.simulated import CPU, DEVICE

DEFENSES = sorted(catalogue("defenses"))
CLASSES = 5
# Training parameters, where a plugin has them, that make it small.
TINY = {"iterations": 6, "epochs": 1, "batch": 8, "bank": 16, "width": 2, "images": 8,
        "chain_steps": 2, "code": 4}  # fmt: skip
_MUSEUM = ("lippe_ebm", "mandal_ae")  # whose networks are those that others published
_SIDE = dict.fromkeys(_MUSEUM, 28)


@dataclass(frozen=True)
class Pair:
    """A defense and images of the classes that it sees, on one device."""

    defense: Defense
    images: Images


def images(n: int, side: int = 8) -> Images:
    """Draw n random images (n, 1, side, side) with labels in turn."""
    x = torch.rand(n, 1, side, side, generator=torch.Generator().manual_seed(0))
    return Images(torch.arange(n) + 7, x, torch.arange(n) % CLASSES)


def seeded(make: Any) -> Any:
    """Make a network from a fixed seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def task(device: torch.device, n: int = 24) -> Task:
    """Build what a training begins with, on a device."""
    shown = images(n).to(device)
    return Task(shown, shown, CLASSES, device, classifier(8).to(device), shown.x[:8].flip(0))


def small(made: Any) -> Any:
    """Set a plugin's parameters so that its networks and its training are small."""
    if not isinstance(made, Trainable):
        return made
    training: Any = made.training
    known = {field.name for field in dataclasses.fields(training)}
    tiny = {key: value for key, value in TINY.items() if key in known}
    few = {key: 2 for key in ("steps",) if hasattr(made, key)}
    width = {"width": 2} if "width" in {f.name for f in dataclasses.fields(made)} else {}
    return dataclasses.replace(
        made, training=dataclasses.replace(training, **tiny), **few, **width
    )


def classifier(side: int) -> nn.Module:
    """Make a classifier; a scale that spreads its logits lets votes differ."""
    net: nn.Module = seeded(lambda: SmallCnnNet((1, side, side), classes=CLASSES, width=2))
    with torch.no_grad():
        for weight in net.parameters():
            weight.mul_(2.0)
    return net.eval().requires_grad_(False)


def _purifier(name: str) -> Any:
    if name == "lippe_ebm":
        energy = CourseEnergy(seeded(CourseNet))
        return CoursePurifier(energy, steps=2, step_size=10.0, noise=0.005)
    if name == "ffdnet":
        return DenoisedSmoothing(seeded(lambda: FFDNet(1)).eval(), sigma=0.25)
    if name == "mandal_ae":
        return seeded(NoisyAutoencoder).eval()
    made = small(plugin("defenses", name)())
    if name == "tv_min":
        return dataclasses.replace(made, steps=2)
    if not isinstance(made, Trainable):
        return made
    return made.load(made.start(task(CPU)).weights(), shape=(1, 8, 8))


@functools.cache
def pairs(name: str) -> tuple[Pair, Pair]:
    """Build a defense with images on the CPU and on the simulated device."""
    side = _SIDE.get(name, 8)
    here = Defense(_purifier(name), classifier(side))
    shown = images(3, side)
    there = copy.deepcopy(here).to(DEVICE)
    return Pair(here, shown), Pair(there, shown.to(DEVICE))


def held(tensor: Tensor) -> Tensor:
    """Read the numbers of a tensor wherever it is, uncounted."""
    return getattr(tensor, "held", tensor).detach()

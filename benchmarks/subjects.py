"""What is measured: the networks that ship for MNIST, or random ones of the same shape."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.core.defense import Defense
from bench.core.protocols import Images, Pixels
from bench.core.threat import Access, Norm, ThreatModel
from bench.evaluation.run import Prepared
from bench.experiments.prepare import outline, prepare, resolve
from bench.results.cell import Cell, Part, Request
from bench.results.progress import finish
from bench.results.store import Store
from bench.results.workspace import Workspace
from bench_defenses.classifiers.small_cnn import SmallCnnNet
from bench_defenses.energies.langevin import LangevinPurifier
from bench_defenses.energies.network import EnergyNet
from benchmarks.rows import Settings

_SHIPPED = Path(__file__).resolve().parents[1] / "results"
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Subject:
    """A small CNN behind Langevin steps, and images: ``note`` says where they are from.

    At the radius ``eps`` (Linf) an attack through the purifier leaves some images.
    """

    classifier: nn.Module
    purifier: LangevinPurifier
    pixels: Pixels
    eps: Fraction
    note: str

    @property
    def energy(self) -> nn.Module:
        """The energy of the purifier."""
        return self.purifier.energy

    def images(self, n: int, *, device: str = "cpu") -> Images:
        """Cut the first n images out."""
        return self.pixels.images(0, n).to(torch.device(device))

    def defense(self, purifier: Any = None, *, device: str = "cpu") -> Defense:
        """Put a purifier, the Langevin steps by default, in front of the classifier."""
        whole = Defense(purifier or self.purifier, self.classifier)
        return whole if device == "cpu" else copy.deepcopy(whole).to(torch.device(device))

    def cell(
        self,
        attack: Any,
        *,
        access: Access,
        n: int,
        eps: Fraction,
        draws: int = 1,
        purifier: Any = None,
        name: str = "purifier",
        after: tuple[str, ...] = (),
    ) -> Prepared:
        """Build by hand what ``bench.experiments.prepare`` builds from a request."""
        cell = Cell(
            dataset="benchmark",
            data=self.pixels.digest,
            n=n,
            shard=100,
            classifier=Part("classifier", {}, 1),
            defense=Part(name, {}, 1),
            attack=Part(type(attack).__name__, dataclasses.asdict(attack), 1),
            threat=ThreatModel(Norm.LINF, eps, access),
            seed=0,
            draws=draws,
            after=after,
        )
        return Prepared(cell, self.defense(purifier), attack, self.pixels)


def open_workspace(root: Path) -> Workspace:
    """Open a results folder on the CPU."""
    return Workspace(Store(root), root, root, _CPU)


def subject(settings: Settings) -> Subject:
    """Load the networks that ship where MNIST is there, else make random ones."""
    if settings.quick:
        return made((1, 8, 8), width=4, n=128)
    if (settings.data / "MNIST" / "raw" / "t10k-images-idx3-ubyte.gz").is_file():
        workspace = Workspace(Store(_SHIPPED), settings.data, settings.data, _CPU)
        plugins = resolve(Request.parse(defense="ebm", attack="pgd", dataset="mnist"))
        if not outline(plugins, workspace)[1]:
            found = finish(prepare(plugins, workspace=workspace))
            purifier = found.defense.purifier
            assert isinstance(purifier, LangevinPurifier)
            note = "the networks that ship for MNIST, test images"
            return Subject(
                found.defense.classifier, purifier, found.pixels, Fraction(3, 10), note
            )
    return made((1, 28, 28), width=16, n=10_000)


def made(shape: tuple[int, int, int], *, width: int, n: int) -> Subject:
    """Make n images of ten random patterns, of any contrast, and a classifier of them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        patterns = torch.randint(0, 2, (10, *shape)) - 0.5
        y = torch.arange(n) % 10
        x = 0.5 + torch.rand(n, 1, 1, 1) * patterns[y] + 0.05 * torch.randn(n, *shape)
        x = (255 * x.clamp(0, 1)).byte()
        classifier = _fitted(SmallCnnNet(shape, classes=10, width=width), x[:512], y[:512])
        energy = EnergyNet(shape, width=width).eval().requires_grad_(False)
    purifier = LangevinPurifier(energy, steps=10, step_size=5.0, noise=0.02)
    note = "made-up images, a classifier fitted to them in seconds, an energy of random weights"
    return Subject(classifier, purifier, Pixels(x, y, 255, "made"), Fraction(1, 20), note)


def _fitted(net: nn.Module, x: Tensor, y: Tensor) -> nn.Module:
    optimizer = torch.optim.Adam(net.parameters(), lr=0.005)
    for _ in range(40):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x.float() / 255), y)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's has no types
        optimizer.step()
    return net.eval().requires_grad_(False)

"""Cells built by hand, small enough to run in a test."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import torch
from torch import Tensor, nn

from bench.core.defense import Defense
from bench.core.protocols import Calls, Images, Pixels, View
from bench.core.rng import Rng
from bench.core.threat import Access, Norm, ThreatModel
from bench.data.load import load_test
from bench.evaluation.run import Prepared, run_cell
from bench.results.cell import Cell, Part
from bench.results.files import read_json
from bench.results.progress import finish
from bench.results.store import Store
from bench.results.workspace import Workspace
from bench_attacks.pgd import Pgd
from bench_defenses.classifiers.small_cnn import SmallCnnNet
from bench_defenses.energies.langevin import LangevinPurifier
from bench_defenses.energies.network import EnergyNet

CPU = torch.device("cpu")


def seeded(make: Callable[[], nn.Module], dtype: torch.dtype) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().to(dtype).eval()


_FITTED: dict[torch.dtype, dict[str, Tensor]] = {}


def classifier(dtype: torch.dtype = torch.float32) -> nn.Module:
    """A small network fitted to digits in a second, so that some images are right."""
    net = seeded(lambda: SmallCnnNet((1, 8, 8), classes=10, width=4), torch.float32)
    if not _FITTED:
        images = load_test("digits", root=Path()).images(100, 500)
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        for _ in range(40):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(images.x), images.y)
            loss.backward()  # type: ignore[no-untyped-call]  # torch's has no types
            optimizer.step()
        _FITTED[torch.float32] = {k: v.clone() for k, v in net.state_dict().items()}
    net.load_state_dict(_FITTED[torch.float32])
    return net.to(dtype)


def langevin(dtype: torch.dtype = torch.float32, noise: float = 0.05) -> LangevinPurifier:
    energy = seeded(lambda: EnergyNet((1, 8, 8), width=2), dtype)
    return LangevinPurifier(energy, steps=2, step_size=5.0, noise=noise)


@dataclasses.dataclass(frozen=True)
class DoublePixels(Pixels):
    """A test set whose images come in float64."""

    def images(self, start: int, stop: int) -> Images:
        block = super().images(start, stop)
        return Images(block.indices, block.x.double(), block.y)


def prepared(
    purifier: Any = None,
    attack: Any = None,
    *,
    name: str = "langevin",
    access: Access = Access.FULL,
    eps: Fraction = Fraction(15, 100),
    n: int = 12,
    shard: int = 4,
    draws: int = 5,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Prepared:
    """Build by hand what `prepare` builds from a request."""
    attack = attack or Pgd(steps=3, eot=2)
    pixels = load_test("digits", root=Path())
    if dtype == torch.float64:
        pixels = DoublePixels(pixels.x, pixels.y, pixels.top, pixels.digest)
    cell = Cell(
        dataset="digits",
        data=pixels.digest,
        n=n,
        shard=shard,
        classifier=Part("small_cnn", {"dtype": str(dtype)}, 1, "fitted"),
        defense=Part(name, {}, 1),
        attack=Part(type(attack).__name__, dataclasses.asdict(attack), 1),
        threat=ThreatModel(Norm.LINF, eps, access),
        seed=seed,
        draws=draws,
    )
    return Prepared(
        cell, Defense(purifier or langevin(dtype), classifier(dtype)), attack, pixels
    )


def at(root: Path) -> Workspace:
    return Workspace(Store(root), root, root, CPU)


def rows(made: Prepared, workspace: Workspace) -> pd.DataFrame:
    finish(run_cell(made, workspace=workspace))
    return pd.read_parquet(workspace.store.outcomes(made.cell.key()))


def assert_equal(one: pd.DataFrame, other: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(one, other, check_exact=True)


def proposals(workspace: Workspace) -> list[Path]:
    return sorted((workspace.store.root / "images").rglob("*.safetensors"))


def about(made: Prepared, workspace: Workspace) -> dict[str, Any]:
    return read_json(workspace.store.cell(made.cell.key()) / "provenance.json")


def stop_after(made: Prepared, workspace: Workspace, shards: int) -> None:
    """Run a cell and stop it once so many shards are there."""
    for k, _ in enumerate(run_cell(made, workspace=workspace)):
        if k == shards:
            return


@dataclasses.dataclass(frozen=True)
class Counting:
    """Bright noise as an attack; counts its calls."""

    revision: ClassVar[int] = 1
    norms: ClassVar[tuple[Norm, ...]] = (Norm.LINF,)
    accesses: ClassVar[tuple[Access, ...]] = (Access.TRANSFER, Access.BPDA)
    unbounded: ClassVar[bool] = False
    made: ClassVar[list[int]] = []

    def __call__(
        self, view: View, x: Tensor, y: Tensor, *, threat: ThreatModel, rng: Rng
    ) -> Tensor:
        self.made.append(len(x))
        return (x + threat.radius * rng.uniform_like(x)).clamp(0, 1)

    def calls(self, *, stochastic: bool, classes: int) -> Calls:
        return Calls()

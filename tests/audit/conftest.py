"""Subjects for the checks: a small fitted classifier on digits behind any purifier."""

from __future__ import annotations

import functools
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bench.audit.subject import Subject
from bench.core.defense import Defense
from bench.core.networks import frozen
from bench.core.threat import Access, Norm, ThreatModel
from bench.data.load import load_test
from bench.evaluation.run import Prepared
from bench.plugins.catalogue import build, parameters
from bench.results.cell import Cell, Part
from bench.results.store import Store
from bench.results.workspace import Workspace
from bench_defenses.classifiers.small_cnn import SmallCnnNet
from bench_defenses.energies.langevin import LangevinPurifier
from bench_defenses.energies.network import EnergyNet
from bench_defenses.none import Identity

MakeSubject = Callable[..., Subject]


@functools.cache
def fitted() -> nn.Module:
    """A small network fitted to digits in a second."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = SmallCnnNet((1, 8, 8), classes=10, width=8)
    images = load_test("digits", root=Path()).images(100, 500)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(images.x), images.y)
        loss.backward()
        optimizer.step()
    return frozen(net)


@pytest.fixture(autouse=True)
def _short_autoattack(short_autoattack: None) -> None:
    """What AutoAttack finds in the end is the subject of its own tests."""


@pytest.fixture
def classifier() -> nn.Module:
    return fitted()


@pytest.fixture
def langevin() -> Callable[..., LangevinPurifier]:
    """Langevin steps on a random smooth energy; ``energy`` puts another one in its place."""

    def make(
        energy: nn.Module | None = None,
        *,
        steps: int = 2,
        step_size: float = 5.0,
        noise: float = 0.05,
    ) -> LangevinPurifier:
        if energy is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                energy = EnergyNet((1, 8, 8), width=2).eval()
        return LangevinPurifier(energy, steps=steps, step_size=step_size, noise=noise)

    return make


@pytest.fixture
def make_subject(tmp_path: Path) -> MakeSubject:
    """Build a subject by hand: any purifier before any classifier, cheap attacks."""

    def make(
        purifier: Any = None,
        network: nn.Module | None = None,
        *,
        name: str = "planted",
        norm: Norm = Norm.LINF,
        eps: Fraction = Fraction(15, 100),
        n: int = 32,
        draws: int = 10,
        seed: int = 0,
        settings: dict[str, Any] | None = None,
    ) -> Subject:
        settings = {"steps": 5, "eot": 3, **(settings or {})}
        attack = build("attacks", "apgd", settings)
        pixels = load_test("digits", root=Path())
        cell = Cell(
            dataset="digits",
            data=pixels.digest,
            n=n,
            shard=n,
            classifier=Part("small_cnn", {}, 1, "fitted"),
            defense=Part(name, {}, 1),
            attack=Part("apgd", parameters(attack), 1),
            threat=ThreatModel(norm, eps, Access.FULL),
            seed=seed,
            draws=draws,
        )
        defense = Defense(purifier or Identity(), network or fitted(), seed=seed)
        prepared = Prepared(cell, defense, attack, pixels)
        workspace = Workspace(
            Store(tmp_path / "audit"), tmp_path, tmp_path, torch.device("cpu")
        )
        return Subject(prepared, workspace, Store(tmp_path / "results"), settings)

    return make

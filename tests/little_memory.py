"""A device of little memory, and a purifier on it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bench.core.defense import Defense
from bench.core.rng import Rng
from bench_defenses.energies.langevin import LangevinPurifier

from .cells import classifier, langevin, prepared

N = 12  # images


@dataclass
class Memory:
    """Memory of so many rows; keeps the sizes of all tries."""

    holds: int
    tried: list[int] = field(default_factory=list)

    def __deepcopy__(self, _: object) -> Memory:
        return self  # the copy that an attack sees runs on the same device

    def take(self, rows: int) -> None:
        self.tried.append(rows)
        if rows > self.holds:
            raise torch.OutOfMemoryError(f"no memory for {rows} rows")


class Hungry(LangevinPurifier):
    """Langevin purification on a device of little memory; keeps every number drawn."""

    def __init__(self, memory: Memory) -> None:
        energy = langevin(torch.float64).energy
        super().__init__(energy, steps=2, step_size=5.0, noise=0.05)
        self.memory = memory
        self.drawn: dict[tuple[int, int, int], set[bytes]] = defaultdict(set)

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        self.memory.take(len(rng))
        numbers = rng.normal((3,))
        for image, draw, row in zip(rng._images, rng._draws, numbers, strict=True):
            self.drawn[rng._key, int(image), int(draw)].add(row.numpy().tobytes())
        return super().purify(x, rng=rng)


def digits() -> Tensor:
    return prepared(dtype=torch.float64).pixels.images(0, N).x


def hungry(holds: int) -> tuple[Hungry, Defense]:
    defense = Defense(Hungry(Memory(holds)), classifier(torch.float64))
    assert isinstance(defense.purifier, Hungry)
    return defense.purifier, defense

"""Seeds of trainings: torch reads only the lower 32 bits of a generator's seed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from bench.api import Rng

_APART = 0x9E3779B9  # 2^32 over the golden ratio: its multiples stay far from each other


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw initial weights from a seed of the CPU's generator, and leave that as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch's own would seed all GPUs too
        yield


def numbered(seed: int, number: int) -> torch.Generator:
    """Open the generator of an iteration; seeds below 1,000 lie a million numbers apart."""
    return torch.Generator().manual_seed((number + seed * _APART) % 2**32)


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """Open a generator for one use of a seed, independent of all others."""
    return torch.Generator().manual_seed(Rng.seeded(seed, [0]).fork(*purpose).integer())

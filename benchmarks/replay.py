"""Record the network passes and the noise of a piece of work, and do them again bare."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from unittest.mock import patch

import torch
from torch import Tensor, nn

from bench.core.rng import Rng


@dataclass
class Pass:
    """One call of a network on ``rows``: 0, 1 or 2 backward passes to the input followed.

    Two are a gradient that was differentiated again (a Hessian-vector product).
    """

    network: str
    rows: int
    backward: int = 0


@dataclass
class Recording:
    """``passes`` in the order of their calls, and the shapes (M, ...) of the ``noise``."""

    passes: list[Pass] = field(default_factory=list)
    noise: list[tuple[int, ...]] = field(default_factory=list)

    def counts(self) -> Counter[str]:
        """Count rows as ``bench.core.passes.count_passes`` does."""
        found: Counter[str] = Counter()
        for one in self.passes:
            found[f"{one.network} forward"] += one.rows
            if one.backward:
                found[f"{one.network} backward"] += one.rows * one.backward
        return found

    def numbers(self) -> int:
        """Count the random numbers."""
        return sum(math.prod(shape) for shape in self.noise)


@contextmanager
def recorded(networks: Mapping[str, nn.Module]) -> Iterator[Recording]:
    """Record what networks are called with, and every normal number that is drawn."""
    seen = Recording()

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
        def before(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            one = Pass(name, len(args[0]))
            seen.passes.append(one)
            if not args[0].requires_grad:
                return args
            alias = args[0].view_as(args[0])

            def backward(_: Tensor) -> None:
                one.backward += 1

            alias.register_hook(backward)  # type: ignore[no-untyped-call]  # torch's has no types
            return (alias, *args[1:])

        return before

    normal = Rng.normal

    def drawn(rng: Rng, shape: Sequence[int]) -> Tensor:
        seen.noise.append((len(rng), *shape))
        return normal(rng, shape)

    handles = [net.register_forward_pre_hook(hook(name)) for name, net in networks.items()]
    try:
        with patch.object(Rng, "normal", drawn):
            yield seen
    finally:
        for handle in handles:
            handle.remove()


def bare(
    passes: Sequence[Pass], networks: Mapping[str, nn.Module], x: Tensor
) -> Callable[[], None]:
    """Build only the passes, in the same order and sizes, on rows like x (N, C, H, W)."""
    rows = {n: x[torch.arange(n, device=x.device) % len(x)] for n in {p.rows for p in passes}}

    def run() -> None:
        for one in passes:
            network, images = networks[one.network], rows[one.rows]
            if one.backward == 0:
                with torch.no_grad():
                    network(images)
                continue
            leaf = images.detach().requires_grad_()
            again = one.backward > 1
            (slope,) = torch.autograd.grad(network(leaf).sum(), leaf, create_graph=again)
            if again:
                torch.autograd.grad(slope, leaf, images)

    return run


def noise_alone(shapes: Sequence[tuple[int, ...]]) -> Callable[[], None]:
    """Build only the draws of the noise."""
    streams = {rows: Rng.seeded(0, range(rows)) for rows in {shape[0] for shape in shapes}}

    def run() -> None:
        for rows, *shape in shapes:
            streams[rows].normal(shape)

    return run


def in_words(counts: Mapping[str, int]) -> str:
    """Write counts of passes for the table."""
    return ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items()))

"""Count network passes, the cost of an evaluation, without touching what they compute."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn


@contextmanager
def count_passes(networks: Mapping[str, nn.Module]) -> Iterator[Counter[str]]:
    """Count rows per network: '<name> forward' and '<name> backward' (to the input).

    A second derivative counts as another backward pass. Passes of a block that did not fit the
    memory and was done again in smaller ones (bench.core.batch_size) were made, and count too.
    """
    counts: Counter[str] = Counter()

    def hook(name: str) -> object:
        def before(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            rows = len(args[0])
            counts[f"{name} forward"] += rows
            if not args[0].requires_grad:
                return args
            # An alias of this call alone: a leaf seen by many calls would fire many hooks.
            seen = args[0].view_as(args[0])

            def backward(_: Tensor) -> None:
                counts[f"{name} backward"] += rows

            seen.register_hook(backward)  # type: ignore[no-untyped-call]  # torch's has no types
            return (seen, *args[1:])

        return before

    handles = [
        # torch wants Any for the arguments of a hook, which here are tensors.
        network.register_forward_pre_hook(hook(name))  # type: ignore[arg-type]
        for name, network in networks.items()
    ]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()

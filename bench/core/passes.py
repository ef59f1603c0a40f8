"""Count network passes, the cost of an evaluation, without touching what they compute."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

# Of each count that is open: itself, its networks with their names by id, and the calls inside.
_open: list[tuple[Counter[str], dict[int, tuple[str, nn.Module]], list[int]]] = []


@contextmanager
def count_passes(networks: Mapping[str, nn.Module]) -> Iterator[Counter[str]]:
    """Count rows per network: '<name> forward' and '<name> backward' (to the input).

    A network called by another one of these is part of that one's pass. The rows are those of
    the argument with the most dimensions, given by position or by name. A second derivative
    counts as another backward pass. Passes of a block that did not fit the memory and was done
    again in smaller ones (bench.core.batch_size) were made, and count too.
    """
    counts: Counter[str] = Counter()
    once = {id(network): (name, network) for name, network in networks.items()}
    inside: list[int] = []  # the calls that are open, the outermost first

    def before(name: str) -> Callable[..., Any]:
        def hook(network: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
            inside.append(id(network))
            if len(inside) > 1:
                return None
            values, shape = tree_flatten((args, options))
            place = _images(values)
            rows = 1 if place is None else len(values[place])
            counts[f"{name} forward"] += rows
            if place is None or not values[place].requires_grad:
                return None
            # An alias of this call only: a leaf seen by many calls would fire many hooks.
            seen = values[place].view_as(values[place])

            def backward(_: Tensor) -> None:
                counts[f"{name} backward"] += rows

            seen.register_hook(backward)
            values[place] = seen
            return tree_unflatten(values, shape)

        return hook

    def after(*_: Any) -> None:
        inside.pop()

    handles = [
        handle
        for name, network in once.values()
        for handle in (
            network.register_forward_pre_hook(before(name), with_kwargs=True),
            network.register_forward_hook(after, always_call=True),
        )
    ]
    _open.append((counts, once, inside))
    try:
        yield counts
    finally:
        _open.pop()
        for handle in handles:
            handle.remove()


@contextmanager
def counted_as(network: nn.Module, rows: int, *, backwards: int) -> Iterator[None]:
    """Count that many rows of a network, whatever is called meanwhile: for recorded work."""
    for counts, once, inside in _open:
        if id(network) in once and not inside:
            counts[f"{once[id(network)][0]} forward"] += rows
            counts[f"{once[id(network)][0]} backward"] += backwards * rows
        inside.append(id(network))
    try:
        yield
    finally:
        for *_, inside in _open:
            inside.pop()


def _images(values: list[Any]) -> int | None:
    """Find the tensor of most dimensions; None where none has rows."""
    dims = [value.dim() if isinstance(value, Tensor) else 0 for value in values]
    most = max(dims, default=0)
    return dims.index(most) if most else None

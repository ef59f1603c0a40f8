"""What a device would have been asked for: launches, waits of the host, mixed devices.

Counted on the simulated device of ``simulated.py``. Kernels are an estimate of CUDA's: one per
operation, with the exceptions below.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

ROOTS = ("/bench/", "/bench_attacks/", "/bench_defenses/")
_TORCH = os.path.dirname(torch.__file__)
_HERE = os.path.dirname(__file__)

# Views, and what only allocates.
NO_KERNEL = frozenset(
    (
        "view",
        "_unsafe_view",
        "reshape",
        "_reshape_alias",
        "expand",
        "permute",
        "t",
        "transpose",
        "slice",
        "select",
        "unsqueeze",
        "unsqueeze_",
        "squeeze",
        "squeeze_",
        "as_strided",
        "detach",
        "detach_",
        "alias",
        "unbind",
        "split",
        "split_with_sizes",
        "chunk",
        "unfold",
        "narrow",
        "diagonal",
        "flatten",
        "view_as",
        "lift_fresh",
        "set_",
        "resize_",
        "empty",
        "empty_like",
        "is_non_overlapping_and_dense",
        "new_empty",
        "empty_strided",
        "new_empty_strided",
        "_local_scalar_dense",
    )
)
# What the host cannot go on without: it reads a number or a size from the device.
WAITS = frozenset(
    (
        "_local_scalar_dense",
        "nonzero",
        "masked_select",
        "_unique2",
        "unique_dim",
        "unique_consecutive",
        "bincount",
        "equal",
        "is_nonzero",
        "histc",
    )
)
_MORE = {"nonzero": 2, "sort": 1, "topk": 1, "bincount": 2, "_unique2": 3}  # kernels
INDEXING = frozenset(
    (
        "index",
        "index_put",
        "index_put_",
        "_index_put_impl_",
        "_unsafe_index",
        "_unsafe_index_put",
    )
)
_GLOBAL = frozenset(
    ("randn", "rand", "randint", "randperm", "normal_", "uniform_", "bernoulli_", "random_")
)


@dataclass
class Ledger:
    """What was counted since ``reset``: ``kernels`` by operation, ``waits`` with their line."""

    waits: Counter[str] = field(default_factory=Counter)
    kernels: Counter[str] = field(default_factory=Counter)
    drawn: Counter[str] = field(default_factory=Counter)  # from a generator of the device
    threads: set[int] = field(default_factory=set)

    def reset(self) -> None:
        """Begin anew."""
        for counter in (self.waits, self.kernels, self.drawn, self.threads):
            counter.clear()

    def wait(self, kind: str) -> None:
        """Note that the host waits for the device."""
        self.waits[f"{kind} at {place()}"] += 1

    def launch(self, operation: str, kernels: int = 1) -> None:
        """Note kernels of an operation."""
        self.threads.add(threading.get_ident())
        self.kernels[operation] += kernels  # a name without kernels is noted too


LEDGER = Ledger()


def place() -> str:
    """Return file and line of the innermost frame of the product; else of the caller."""
    frame, nearest = sys._getframe(1), ""
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith((_HERE + "/simulated", _HERE + "/ledger", _TORCH)):
            spot = f"{name}:{frame.f_lineno}"
            nearest = nearest or spot
            for root in ROOTS:
                if root in name and "/tests/" not in name:
                    return spot[spot.rindex(root) + 1 :]
        frame = frame.f_back
    return nearest


def launches(operation: str, args: tuple[Any, ...], named: dict[str, Any]) -> int:
    """Estimate the kernels of an operation on CUDA."""
    if operation in NO_KERNEL:
        return 0
    if operation == "convolution":
        return 1 + (args[2] is not None)  # the bias is added by a kernel of its own
    if operation == "convolution_backward":
        return sum(map(bool, named.get("output_mask", args[-1])))
    if operation in INDEXING and any(_is_mask(index) for index in args[1]):
        return 4  # nonzero and gather
    return 1 + _MORE.get(operation, 0)


def waits(
    operation: str, overload: str, args: tuple[Any, ...], named: dict[str, Any]
) -> str | None:
    """Say why the host waits for an operation; None where it does not."""
    if operation in WAITS:
        return operation
    if operation == "repeat_interleave" and "Tensor" in overload:
        return None if named.get("output_size") is not None else "repeat_interleave"
    if operation in INDEXING and any(_is_mask(index) for index in args[1]):
        one = operation != "index" and len(args) > 2 and args[2].numel() == 1
        return None if one else "boolean mask"  # of one value: masked_fill
    return None


def draws(operation: str) -> bool:
    """Whether an operation draws from a generator of the device, which no seed of ours sets."""
    return operation in _GLOBAL


def _is_mask(index: object) -> bool:
    return isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)

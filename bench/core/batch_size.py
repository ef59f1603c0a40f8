"""How many rows go through the networks in one pass, and fewer where they do not fit.

A row is one draw of one image. How many of them a pass takes is a matter of speed and memory
alone: random numbers depend on image, purpose and draw, so that cutting the rows otherwise
changes the rounding of results and nothing else.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from bench.core.device import lacks_memory

T = TypeVar("T")

# On a CPU more rows fall out of the cache, on a GPU fewer leave it idle.
_START = {"cpu": 128, "cuda": 8192}

# What was found to fit instead, per kind of device. Process-wide, for memory is a fact of the
# process and its device, not of the call that met its end: the next would only meet it again.
_found: dict[str, int] = {}


def rows_per_pass(device: torch.device) -> int:
    """Return how many rows a pass on this device takes at present in this process."""
    return _found.get(device.type, _START.get(device.type, _START["cpu"]))


def in_blocks(
    work: Callable[[slice], T], n: int, *, draws: int, device: torch.device
) -> list[T]:
    """Do work on n images block by block, in order, their draws folded; return its parts.

    ``work`` gets the slice of a block's images and keeps nothing of it where it fails. A block
    that does not fit the memory is done again in smaller ones; raises the device's
    error (``bench.core.device.lacks_memory``) where one image with all its draws does not fit.
    """
    parts: list[T] = []
    rows, start = rows_per_pass(device), 0
    while start < n:
        images = min(max(1, rows // draws), n - start)
        try:
            parts.append(work(slice(start, start + images)))
        except RuntimeError as error:
            if images == 1 or not lacks_memory(error):
                raise
        else:
            start += images
            # Remembered now that it helped: what no halving makes fit slows nothing else down.
            if rows < rows_per_pass(device):
                _found[device.type] = rows
            continue
        # Outside of the except block: the error holds the frames that hold the block's tensors.
        _give_back(device)
        rows = _halved(rows, images=images, draws=draws)
    return parts


def _halved(rows: int, *, images: int, draws: int) -> int:
    """Halve until a block is smaller than one of ``images``, which may have been the rest."""
    while max(1, rows // draws) >= images:
        rows //= 2
    return rows


def _give_back(device: torch.device) -> None:
    gc.collect()  # tensors may hang in a cycle, such as an error kept in one of its frames
    if device.type == "cuda":
        torch.cuda.empty_cache()

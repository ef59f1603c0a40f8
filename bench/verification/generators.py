"""Whether work drew from the generators of the process: noise that goes by the block.

A purifier that draws from them gets the same numbers for the same block of images, since the
harness seeds them by the block. Its votes can be repeated block by block, and only so.
"""

from __future__ import annotations

import random

import numpy as np
import torch

States = tuple[object, ...]


def states() -> States:
    """Return the states of the generators of torch, numpy and Python, to be compared."""
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]  # torch's has no types
    kind, keys, place, *rest = np.random.get_state()
    return (
        tuple(state.numpy().tobytes() for state in (torch.random.get_rng_state(), *devices)),
        (kind, np.asarray(keys).tobytes(), place, *rest),
        random.getstate(),
    )

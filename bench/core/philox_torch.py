"""The bits of ``bench.core.rng`` in torch's operations, for devices without a kernel for them.

Each operation is a launch, for which a purification step waits: 68 of them for a draw of any
size, as the words of a counter that are treated alike are stacked. Imported where a device
other than the CPU draws; numpy is faster there.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from bench.core.rng import _LOW, _MULTIPLIERS, _ROUNDS, _WEYL, Counter


@functools.lru_cache(maxsize=8)
def _constants(device: torch.device) -> tuple[Tensor, ...]:
    """Make the steps of the key, the multipliers, and a unit of each word of the key."""
    steps = [[number * word & _LOW for word in _WEYL] for number in range(_ROUNDS)]
    rows = torch.tensor([*steps, _MULTIPLIERS, (1, 0), (0, 1)])[:, :, None, None].to(device)
    return rows[:_ROUNDS], *rows[_ROUNDS:]


def encrypted(counter: Counter, key: tuple[int, int]) -> Tensor:
    """Encrypt counters, block (1, B), the others (M, 1), to words, int64 (M, B, 4)."""
    c0, c1, c2, c3 = counter
    shape = len(c2), c0.shape[1]
    even, odd = torch.stack((c0.expand(shape), c2.expand(shape))), torch.stack((c1, c3))
    steps, multipliers, one, other = _constants(c0.device)
    for round_key in torch.add(steps, one, alpha=key[0]).add_(other, alpha=key[1]):
        # What is above the 32 bits of a word is cut off here alone. A product of two words
        # wraps in int64, but its 64 bits are the right ones.
        even &= _LOW
        product = (even * multipliers).flip(0)
        even = (product >> 32).bitwise_xor_(odd).bitwise_xor_(round_key)
        odd = product
    return torch.stack((even[0], odd[0], even[1], odd[1]), dim=-1).bitwise_and_(_LOW)

"""Random numbers with one stream per image, made in the batch and on the device.

Stream i depends on the seed, the purpose, the image's index and the draw alone: never on the
batch, on other images or on how often anything was called. As in JAX there is no hidden state:
the same Rng gives the same numbers again, and ``fork`` names another use of chance.

Bits come from Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2,
3"). Normals are read off the quantile function at 2**16 knots with linear interpolation: a
product and a sum, each rounded once, so that CPUs, GPUs and every batch size agree to the bit,
which the logarithms of Box-Muller do not promise. A CUDA device draws them in one kernel where
Triton works (``bench.core.philox_triton``), another by torch's operations (``philox_torch``).
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Words = npt.NDArray[np.int64]
Counter = tuple[Tensor, Tensor, Tensor, Tensor]

_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = 0xFFFFFFFF
_KNOTS = 2**16
_BLOCKS = 2**14  # that a CPU encrypts at a time: they stay in the cache
_TAIL = 4.5  # where the interpolated quantile ends; beyond lies a mass of 7e-6


def philox(
    counter: tuple[Words, Words, Words, Words], key: tuple[int, int]
) -> tuple[Words, Words, Words, Words]:
    """Encrypt four 32-bit counters, each int64 of one shape, to four words of that shape."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # A product of two 32-bit words wraps in int64, but its 64 bits are the right ones.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c2 = p1 >> 32, p0 >> 32
        # In place, for these are new: memory traffic is what this costs.
        for word, other, one in ((c0, c1, k0), (c2, c3, k1)):
            word &= _LOW
            word ^= other
            word ^= one
        c1, c3 = p1, p0
        c1 &= _LOW
        c3 &= _LOW
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return c0, c1, c2, c3


def _philox_on_cpu(counter: Counter, key: tuple[int, int]) -> Tensor:
    """Encrypt counters (M or 1, B or 1) each to (M, B, 4) by numpy, in pieces."""
    rows, blocks = counter[2].shape[0], counter[0].shape[1]
    c0, c1, c2, c3 = ((one & _LOW).expand(rows, blocks).numpy() for one in counter)
    words = np.empty((rows, blocks, 4), dtype=np.int64)
    at_once = max(1, _BLOCKS // max(1, blocks))
    for start in range(0, rows, at_once):
        part = slice(start, start + at_once)
        found = philox((c0[part], c1[part], c2[part], c3[part]), key)
        for place, word in enumerate(found):
            words[part, :, place] = word
    return torch.from_numpy(words)


def _encrypted(counter: Counter, key: tuple[int, int]) -> Tensor:
    """Encrypt counters (M or 1, B or 1) each to (M, B, 4) on their device."""
    if counter[0].device.type == "cpu":
        return _philox_on_cpu(counter, key)
    from bench.core.philox_torch import encrypted  # which no evaluation on a CPU loads

    return encrypted(counter, key)


@functools.lru_cache(maxsize=8)
def _normal_table(device: torch.device) -> tuple[Tensor, Tensor]:
    """Quantiles of the standard normal at the knots, and the steps between them."""
    levels = torch.linspace(0, 1, _KNOTS + 1, dtype=torch.float64)
    knots = torch.special.ndtri(levels)
    knots[0], knots[-1] = -_TAIL, _TAIL
    steps = (knots[1:] - knots[:-1]) / _KNOTS
    return knots[:-1].float().to(device), steps.float().to(device)


class _Draw(Protocol):
    """What ``bench.core.philox_triton.draw`` is."""

    def __call__(
        self,
        kind: str,
        images: Tensor,
        draws: Tensor,
        *,
        key: int,
        shape: Sequence[int],
        table: tuple[Tensor, Tensor],
    ) -> Tensor: ...


@functools.cache
def _one_kernel(device: torch.device) -> _Draw | None:
    """Return what draws in one kernel on a device, where it works there; else None.

    Triton may be missing, or the compiler that it wants; torch's operations then give the same
    numbers. Its own first numbers are compared with theirs, for no device may draw others.
    """
    try:
        from bench.core.philox_triton import draw

        rng = Rng.seeded(3, [0, 5, -1, 2**40 + 7], device=device)
        table = _normal_table(device)
        found = draw("normal", rng._images, rng._draws, key=rng._key, shape=(5,), table=table)
        words = _encrypted(rng._counter(2), rng._words_of_key()).reshape(4, 8)[:, :5]
        expected = _interpolated(words.flatten(), table)
        return draw if torch.equal(found.flatten(), expected) else None
    except Exception:  # whatever a compiler or a driver raises: nothing depends on it
        return None


def _interpolated(words: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Turn 32-bit words (n,), which it overwrites, to standard normal numbers (n,)."""
    knots, steps = table
    cell = words >> 16
    fraction = words.bitwise_and_(0xFFFF).float()
    return steps.index_select(0, cell).mul_(fraction).add_(knots.index_select(0, cell))


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class Rng:
    """Random streams for M rows. What they are for cannot be read off: a plugin only draws.

    ``_images`` (M,) and ``_draws`` (M,) are int64; ``_key`` stands for seed and purpose.
    """

    _key: int
    _images: Tensor
    _draws: Tensor

    @classmethod
    def seeded(
        cls, seed: int, images: Tensor | Sequence[int], device: torch.device | None = None
    ) -> Rng:
        """Open the streams of a seed for image indices (M,)."""
        index = torch.as_tensor(images, dtype=torch.int64, device=device)
        return cls(_digest("seed", seed), index, torch.zeros_like(index))

    @property
    def device(self) -> torch.device:
        """The device on which numbers are drawn."""
        return self._images.device

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, rows: Tensor | slice) -> Rng:
        """Keep the streams of some rows, by index (m,), mask (M,) or slice."""
        return Rng(self._key, self._images[rows], self._draws[rows])

    def fork(self, *purpose: str | int) -> Rng:
        """Name another use of chance; equal purposes give equal streams."""
        return Rng(_digest(self._key, *purpose), self._images, self._draws)

    def repeat(self, draws: int) -> Rng:
        """Open ``draws`` streams per row, (M * draws,), a row's draws side by side."""
        if draws == 1:
            return self
        steps = torch.arange(draws, device=self.device).repeat(len(self))
        return Rng(
            self._key,
            self._images.repeat_interleave(draws),
            self._draws.repeat_interleave(draws) * draws + steps,
        )

    def bits(self, shape: Sequence[int]) -> Tensor:
        """Draw uniform 32-bit words, int64 ``(M, *shape)``."""
        found = self._in_one_kernel("bits", shape)
        if found is not None:
            return found
        numbers, rows = math.prod(shape), len(self)
        blocks = -(-numbers // 4)
        words = _encrypted(self._counter(blocks), self._words_of_key())
        return words.reshape(rows, 4 * blocks)[:, :numbers].reshape(rows, *shape)

    def _counter(self, blocks: int) -> Counter:
        """Write the counters of all rows and blocks of four words, (M, 1) or (1, blocks)."""
        block = torch.arange(blocks, device=self.device)
        image = self._images[:, None]
        return block[None], image, self._draws[:, None], image >> 32

    def _words_of_key(self) -> tuple[int, int]:
        return self._key & _LOW, self._key >> 32

    def _in_one_kernel(self, kind: str, shape: Sequence[int]) -> Tensor | None:
        """Draw numbers in one kernel on a CUDA device; None elsewhere."""
        device = self.device
        if device.type != "cuda" or (draw := _one_kernel(device)) is None:
            return None
        return draw(
            kind,
            self._images,
            self._draws,
            key=self._key,
            shape=shape,
            table=_normal_table(device),
        )

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Draw uniform numbers in [0, 1), float32 ``(M, *shape)``."""
        found = self._in_one_kernel("uniform", shape)
        return found if found is not None else (self.bits(shape) >> 8).float() * 2.0**-24

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Draw standard normal numbers, float32 ``(M, *shape)``, within +-4.5."""
        found = self._in_one_kernel("normal", shape)
        if found is not None:
            return found
        table = _normal_table(self.device)
        return _interpolated(self.bits(shape).flatten(), table).reshape(len(self), *shape)

    def uniform_like(self, x: Tensor) -> Tensor:
        """Draw uniform numbers in [0, 1) of the shape and type of x (M, ...)."""
        return self.uniform(x.shape[1:]).to(x.dtype)

    def normal_like(self, x: Tensor) -> Tensor:
        """Draw standard normal numbers of the shape and type of x (M, ...)."""
        return self.normal(x.shape[1:]).to(x.dtype)

    def sign_like(self, x: Tensor) -> Tensor:
        """Draw random signs, -1 or +1, of the shape and type of x (M, ...)."""
        return (2 * (self.bits(x.shape[1:]) >> 31) - 1).to(x.dtype)

    def integer(self) -> int:
        """Derive one 31-bit integer of the seed and purpose, for libraries that want a seed."""
        return self._key & 0x7FFFFFFF


def _digest(*parts: str | int) -> int:
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")

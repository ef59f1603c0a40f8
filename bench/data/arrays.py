"""Images in arrays of any common layout, read by slices and checked before anything is trained.

An array may be numpy's, torch's, mapped from a file, or anything with ``shape``, ``dtype`` and
slices that numpy understands: only one slice of it has to fit the memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bench.core.protocols import Pixels
from bench.data import checks

_AT_ONCE = 2**24  # bytes or floats that are looked at together


class Slices(Protocol):
    """Images (N, C, H, W) that are read by slices: bytes, or floats in [0, 1]."""

    @property
    def shape(self) -> Sequence[int]:
        """(N, C, H, W)."""
        ...

    def __getitem__(self, rows: slice) -> Tensor: ...


class ArrayRows:
    """The images of an array, whatever its layout: (N, C, H, W) in uint8 or float32."""

    def __init__(self, array: Any, what: str) -> None:
        self._array, self._what = array, what
        self.shape, self._channels_last = checks.layout(tuple(array.shape), what)
        self._whole = checks.is_bytes(_dtype(array), what)

    @property
    def top(self) -> int:
        """The number that stands for white."""
        return 255 if self._whole else 1

    def __getitem__(self, rows: slice) -> Tensor:
        c, h, w = self.shape[1:]
        found = np.asarray(self._array[rows])
        if self._channels_last:
            found = found.reshape(-1, h, w, c).transpose(0, 3, 1, 2)
        else:
            found = found.reshape(-1, c, h, w)
        # A copy, since the array may be mapped from a file that nobody may write to.
        return torch.from_numpy(found.astype(np.uint8 if self._whole else np.float32, "C"))

    def check(self) -> None:
        """Look at every pixel; raises DataError where they are no images."""
        low, high = np.inf, -np.inf
        for start, stop in _parts(self.shape):
            part = np.asarray(self._array[start:stop])
            # Both are NaN where any pixel is.
            low, high = np.minimum(low, part.min()), np.maximum(high, part.max())
        checks.pixel_range(float(low), float(high), whole=self._whole, what=self._what)


def pixels_of(x: Any, y: Any, *, named: tuple[str, str]) -> Pixels:
    """Check images and labels of any layout; ``named`` in errors; raises DataError."""
    rows = ArrayRows(x, named[0])
    found: npt.NDArray[Any] = np.asarray(y)
    checks.labels_of(found.shape, found.dtype, rows.shape[0], named[1])
    checks.label_range(int(found.min()), named[1])
    rows.check()
    whole = torch.from_numpy(found.astype(np.int64))
    return lazy(rows, whole, rows.top, digest(rows, whole))


def lazy(x: Slices, y: Tensor, top: int, digest: str) -> Pixels:
    """Build a split whose images are read by slices, which is all that is asked of them."""
    return Pixels(cast("Tensor", x), y, top, digest)


def digest(x: Slices, y: Tensor) -> str:
    """Hash the bytes of all images and labels, part by part."""
    found = hashlib.sha256()
    for start, stop in _parts(x.shape):
        found.update(x[start:stop].numpy().data)
    found.update(y.numpy().data)
    return found.hexdigest()


def _parts(shape: Sequence[int]) -> list[tuple[int, int]]:
    n, *one = shape
    step = max(1, _AT_ONCE // max(1, int(np.prod(one))))
    return [(start, min(start + step, n)) for start in range(0, n, step)]


def _dtype(array: Any) -> np.dtype[Any]:
    kind = array.dtype
    return torch.empty(0, dtype=kind).numpy().dtype if isinstance(kind, torch.dtype) else kind

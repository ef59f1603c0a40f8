"""What images and labels have to be, told by shapes, types and values. Imports no torch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from bench.errors import DataError

if TYPE_CHECKING:
    import numpy as np

Shape = tuple[int, int, int, int]

_CHANNELS = (1, 3)


def layout(shape: tuple[int, ...], what: str) -> tuple[Shape, bool]:
    """Return (N, C, H, W) of images of a shape, and whether their channels are last.

    Raises DataError for other shapes.
    """
    if 0 in shape:
        raise DataError(f"{what} is empty: its shape is {shape}. Save images.")
    if len(shape) == 3:
        n, h, w = shape
        return (n, 1, h, w), False
    if len(shape) == 4:
        n, first, middle, last = shape
        if first in _CHANNELS and last not in _CHANNELS:
            return (n, first, middle, last), False
        if last in _CHANNELS and first not in _CHANNELS:
            return (n, last, first, middle), True
    raise DataError(
        f"{what} has the shape {shape}. Save images as (N, H, W), (N, C, H, W) or (N, H, W, C) "
        "with 1 or 3 channels."
    )


def is_bytes(dtype: np.dtype[Any], what: str) -> bool:
    """Whether images of a type are 0 to 255 and not floats in [0, 1]; raises DataError."""
    if dtype.kind in "iu":
        return True
    if dtype.kind == "f":
        return False
    raise DataError(f"{what} has {_type(dtype)}. Save it as uint8, or as floats in [0, 1].")


def pixel_range(low: float, high: float, *, whole: bool, what: str) -> None:
    """Check the smallest and the largest pixel; raises DataError."""
    found = f"from {low:.9g} to {high:.9g}"
    if not (math.isfinite(low) and math.isfinite(high)):
        raise DataError(f"{what} has NaN or infinity among its pixels. Save it without them.")
    if whole and (low < 0 or high > 255):
        raise DataError(
            f"{what} has integers {found}, not within 0 to 255. Save pixels as uint8."
        )
    if whole and high <= 1:
        raise DataError(
            f"{what} has integers {found}, where 255 is white. Multiply them by 255, or save "
            "floats in [0, 1]."
        )
    if not whole and (low < 0 or high > 1):
        advice = "save them as uint8" if low >= 0 and high <= 255 else "undo the normalization"
        raise DataError(
            f"{what} has floats {found}, not within [0, 1]: {advice}. A network that needs "
            "another scale does that itself."
        )


def labels_of(shape: tuple[int, ...], dtype: np.dtype[Any], n: int, what: str) -> None:
    """Check that labels of a shape and type may belong to n images; raises DataError."""
    if dtype.kind not in "iu":
        raise DataError(
            f"{what} has {_type(dtype)}. Labels are integers that count classes from 0."
        )
    if shape != (n,):
        raise DataError(
            f"{what} has the shape {shape}. Save one label for each of the {n} images: ({n},)."
        )


def label_range(low: int, what: str) -> None:
    """Check the smallest label; raises DataError."""
    if low < 0:
        raise DataError(f"{what} has the label {low}. Labels count classes from 0.")


def _type(dtype: np.dtype[Any]) -> str:
    return "Python objects, which are not read" if dtype.hasobject else f"the type {dtype}"

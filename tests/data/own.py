"""Images of a user's own: twenty digits in every form in which data may come."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Array = npt.NDArray[Any]


def digits(n: int = 20, start: int = 1000) -> tuple[Array, Array]:
    """Images (N, 8, 8) of bytes and labels (N,), sorted by label as a folder is."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x, y = x[start : start + n].reshape(-1, 8, 8), y[start : start + n]
    order = np.argsort(y, kind="stable")
    return (x * 255 / 16).round().astype(np.uint8)[order], y[order].astype(np.int64)


def save(path: Path, **arrays: Any) -> Path:
    """Save an .npz file; digits where no images are given."""
    if "x" not in arrays:
        arrays["x"], y = digits()
        arrays.setdefault("y", y)
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def save_folder(path: Path, x: Array, y: Array, mode: str = "L") -> Path:
    """Save images (N, H, W) as path/LABEL/NUMBER.png."""
    for number, (image, label) in enumerate(zip(x, y, strict=True)):
        (path / f"{label:02d}").mkdir(parents=True, exist_ok=True)
        made = Image.fromarray(image).convert(mode)
        made.save(path / f"{label:02d}" / f"{number:03d}.png")
    return path

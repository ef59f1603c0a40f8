"""Data sets in folders, one for each class, in the order of torchvision's ImageFolder.

Files are read once when a command begins, to digest them and to see their sizes. They are
decoded when somebody asks for a block, so that only one block is in memory. Imports no torch.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.data.names import Folder
from bench.errors import DataError, near_files

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL import Image

# Those of torchvision's ImageFolder.
_ENDINGS = (
    ".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp",
)  # fmt: skip
_GRAY, _NO_BYTES = ("1", "L"), ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
_NAMED = 5  # classes or files in a message


@dataclass(frozen=True)
class File:
    """An image, its class, and the SHA-256 of its bytes."""

    path: Path
    label: int
    digest: bytes


@dataclass(frozen=True)
class FolderInfo:
    """All images of a folder in order, by class and then by name, and what they have in common.

    ``shape`` is (C, H, W): one channel where all images are gray. ``digest`` is that of all
    files and labels, and of the shape.
    """

    files: tuple[File, ...]
    classes: int
    shape: tuple[int, int, int]
    digest: str
    size: int | None


def folder_info(folder: Folder) -> FolderInfo:
    """Read what a folder has; raises DataError where it is no data set."""
    classes = _classes(folder.path)
    stamp = tuple((name, (folder.path / name).stat().st_mtime_ns) for name in classes)
    return _info(folder, stamp)


def decoded(file: File, info: FolderInfo) -> npt.NDArray[np.uint8]:
    """Decode an image to (C, H, W); raises DataError where it cannot be, or was changed."""
    import numpy as np

    packed = _bytes(file.path)
    if hashlib.sha256(packed).digest() != file.digest:
        _info.cache_clear()  # a notebook may go on and read the folder anew
        raise DataError(
            f"{file.path} has changed since the command began. Run the same command again."
        )
    with _readable(file.path, packed) as image:
        whole = image.convert("L" if info.shape[0] == 1 else "RGB")
        found = np.asarray(whole if info.size is None else _cropped(whole, info.size))
    return found.reshape(*info.shape[1:], info.shape[0]).transpose(2, 0, 1)


def _classes(path: Path) -> list[str]:
    """List the folders of the classes, sorted; raises DataError where there is none."""
    try:
        there = sorted(entry.name for entry in os.scandir(path) if _is_class(entry))
        images = [name for name in sorted(os.listdir(path)) if _is_image(name)]
    except FileNotFoundError:
        raise DataError(f"there is no folder {path}. {near_files(path)}") from None
    except OSError as error:
        raise DataError(f"cannot read the folder {path}: {error.strerror}.") from error
    if there:
        return there
    what = f"images ({images[0]}, ...) but" if images else "no images and"
    raise DataError(
        f"{path} has {what} no folder for a class. Put the images of each class into a "
        f"folder of its own, such as {path}/cat/1.png."
    )


def _is_class(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir() and not entry.name.startswith(".")


def _is_image(name: str) -> bool:
    return name.lower().endswith(_ENDINGS) and not name.startswith(".")


def _paths(folder: Path) -> Iterator[Path]:
    """List the images below a folder in the order of ImageFolder."""
    for where, _, names in sorted(os.walk(folder, followlinks=True)):
        for name in sorted(names):
            if _is_image(name):
                yield Path(where, name)


@functools.lru_cache(maxsize=8)
def _info(folder: Folder, stamp: tuple[tuple[str, int], ...]) -> FolderInfo:
    listed = [list(_paths(folder.path / name)) for name, _ in stamp]
    if empty := [name for (name, _), paths in zip(stamp, listed, strict=True) if not paths]:
        shown = ", ".join(empty[:_NAMED]) + (", ..." if len(empty) > _NAMED else "")
        raise DataError(
            f"{folder.path} has no images for {len(empty)} of its classes ({shown}). Remove "
            f"those folders, or put images into them ({', '.join(_ENDINGS)})."
        )
    files: list[File] = []
    sizes: dict[tuple[int, int], Path] = {}  # with the first image of each
    gray = True
    for label, paths in enumerate(listed):
        for path in paths:
            packed = _bytes(path)
            with _readable(path, packed) as image:
                if image.mode in _NO_BYTES:
                    raise DataError(
                        f"{path} has more than 8 bits a pixel (Pillow's mode {image.mode}). "
                        "Save it with 8."
                    )
                gray &= image.mode in _GRAY
                sizes.setdefault(image.size, path)
            files.append(File(path, label, hashlib.sha256(packed).digest()))
    width, height = _common(sizes) if folder.size is None else (folder.size, folder.size)
    shape = (1 if gray else 3, height, width)
    found = hashlib.sha256(str(shape).encode())
    for file in files:
        found.update(file.digest + file.label.to_bytes(8, "little"))
    return FolderInfo(tuple(files), len(listed), shape, found.hexdigest(), folder.size)


def _common(sizes: dict[tuple[int, int], Path]) -> tuple[int, int]:
    """Return the one size (W, H) of all images; raises DataError where there are several."""
    if len(sizes) > 1:
        (one, first), (other, second) = list(sizes.items())[:2]
        raise DataError(
            f"images differ in size: {first} has {one[0]} x {one[1]} pixels, {second} "
            f"{other[0]} x {other[1]}. Write folder:PATH@{min(one)}, or add --image-size "
            f"{min(one)}: all are resized and their middle is kept."
        )
    return next(iter(sizes))


def _cropped(image: Image.Image, size: int) -> Image.Image:
    """Resize the shorter side and keep the middle: torchvision's Resize and CenterCrop."""
    from PIL.Image import Resampling

    short = min(image.size)
    width, height = (int(size * side / short) for side in image.size)
    image = image.resize((width, height), Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            f"cannot read {path}: {error.strerror}. Restore or remove it."
        ) from error


@contextmanager
def _readable(path: Path, packed: bytes) -> Iterator[Image.Image]:
    """Open an image; raises DataError for whatever Pillow raises on it."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(packed)) as image:
            yield image
    except DataError:
        raise
    except Exception as error:  # Pillow's readers raise anything
        raise DataError(
            f"{path} is no image that can be read ({_line(error)}). Restore or remove it."
        ) from error


def _line(error: Exception) -> str:
    text = (str(error).splitlines() or [""])[0].rstrip(". ")
    # Pillow names the buffer that it was given, which nobody knows.
    return text if text and "BytesIO" not in text else type(error).__name__

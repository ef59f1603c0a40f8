"""Data sets in .npz files: x and y to test on, x_train and y_train where a training is meant.

What a file has is read from the heads of its arrays, in milliseconds and without torch. Python
objects are never unpickled.
"""

from __future__ import annotations

import functools
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from bench.data import checks
from bench.errors import DataError, near_files

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_TEST, _TRAIN = ("x", "y"), ("x_train", "y_train")
_LEAST = 10  # training images, of which the last tenth is held out
_NEEDED = (
    "It needs x (images) and y (labels), and may have x_train and y_train: "
    "numpy.savez('mine.npz', x=..., y=...)."
)


@dataclass(frozen=True)
class FileInfo:
    """The shape (C, H, W), the classes and the numbers of images of a file."""

    shape: tuple[int, int, int]
    classes: int
    train_images: int
    test_images: int


def file_info(path: Path) -> FileInfo:
    """Read what an .npz file has; raises DataError where it is no data set."""
    return _info(path, stamp(path))


def stamp(path: Path) -> tuple[int, int]:
    """Tell one content of a file from the next; raises DataError where there is no file."""
    try:
        found = path.stat()
    except FileNotFoundError:
        raise DataError(f"there is no file {path}. {near_files(path)}") from None
    except OSError as error:
        raise DataError(
            f"cannot read {path}: {error.strerror}. Check its permissions."
        ) from error
    return found.st_mtime_ns, found.st_size


def read_split(path: Path, *, train: bool) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Read images and labels of an .npz file as they were saved; raises DataError."""
    import numpy as np

    file_info(path)  # says in words what numpy would not
    names = _TRAIN if train else _TEST
    with _opened(path) as packed:
        found = []
        for name in names:
            with packed.open(f"{name}.npy") as file:
                found.append(np.lib.format.read_array(file, allow_pickle=False))
    return found[0], found[1]


@functools.lru_cache(maxsize=16)
def _info(path: Path, _stamp: tuple[int, int]) -> FileInfo:
    import numpy as np

    with _opened(path) as packed:
        names = {name.removesuffix(".npy") for name in packed.namelist()}
        _check_names(path, names)
        shapes, classes = [], 0
        for x, y in (_TEST, _TRAIN) if set(_TRAIN) <= names else (_TEST,):
            with packed.open(f"{x}.npy") as file:
                shape, dtype = _head(file)
            what = f"'{x}' of {path}"
            checks.is_bytes(dtype, what)
            (n, *rest), _ = checks.layout(shape, what)
            shapes.append((n, tuple(rest)))
            what = f"'{y}' of {path}"
            with packed.open(f"{y}.npy") as file:
                checks.labels_of(*_head(file), n, what)
            with packed.open(f"{y}.npy") as file:
                labels = np.lib.format.read_array(file, allow_pickle=False)
            checks.label_range(int(labels.min()), what)
            classes = max(classes, int(labels.max()) + 1)
    (test, shape), (train, other) = shapes[0], shapes[-1]
    if other != shape:
        raise DataError(
            f"{path} has test images {shape} and training images {other} (C, H, W). Save both "
            "with one shape."
        )
    if len(shapes) > 1 and train < _LEAST:
        raise DataError(
            f"'x_train' of {path} has {train} images. Save {_LEAST} or more: the last tenth is "
            "held out."
        )
    c, h, w = shape
    return FileInfo((c, h, w), classes, train if len(shapes) > 1 else 0, test)


def _check_names(path: Path, names: set[str]) -> None:
    has = ", ".join(sorted(names)[:10]) or "nothing"
    if not set(_TEST) <= names:
        raise DataError(f"{path} has {has}. {_NEEDED}")
    if len(names & set(_TRAIN)) == 1:
        raise DataError(f"{path} has {has}: x_train and y_train belong together. {_NEEDED}")


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open the archive that an .npz file is; raises DataError for all that is wrong with it."""
    try:
        with zipfile.ZipFile(path) as packed:
            yield packed
    except OSError as error:
        raise DataError(
            f"cannot read {path}: {error.strerror or error}. Check its permissions."
        ) from error
    # A damaged member: its checksum, its header or the compressed bytes.
    except (
        zipfile.BadZipFile, zlib.error, ValueError, EOFError, KeyError, NotImplementedError,
    ) as error:  # fmt: skip
        raise DataError(
            f"{path} is damaged or no .npz file ({_line(error)}). Save it with numpy.savez."
        ) from error


def _head(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Read shape and type of an array in numpy's format."""
    import numpy as np

    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in read:
        raise ValueError(f"format {version}")
    shape, _, dtype = read[version](file)
    return shape, dtype


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(". ")

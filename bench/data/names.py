"""What a user types for a data set, and what results call it. Imports no torch.

A path may stand for a data set: ``photos/mine.npz``, or ``folder:photos/val@224`` for images
that are resized to 224 pixels. In results its name is the last part, ``mine.npz`` or
``folder:val@224``; where it was found is kept beside the key of the cell.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.errors import UsageError
from bench.results.cell import check_dataset_name

VALIDATION = ":validation"  # after a data set's name: its held-out training images
FOLDER = "folder:"
CORRUPTED = "cifar10c:"
_SIZE = re.compile(r"(.*)@(\d{1,5})")
_SEVERITIES = range(1, 6)


@dataclass(frozen=True)
class Corruption:
    """A part of CIFAR-10-C: the name of its file, and 1 to 5."""

    kind: str
    severity: int


@dataclass(frozen=True)
class Folder:
    """A folder of images by class; ``size``: resize and crop to so many pixels, None for no."""

    path: Path
    size: int | None


def trained_on(name: str) -> str:
    """Name the data set whose training images belong to a name: CIFAR-10's for CIFAR-10-C."""
    base = name.removesuffix(VALIDATION)
    return "cifar10" if base.startswith(CORRUPTED) else base


def file_of(name: str) -> Path | None:
    """Return the absolute path of an .npz file; None for another data set."""
    base = name.removesuffix(VALIDATION)
    return _absolute(base) if base.endswith(".npz") and not base.startswith(FOLDER) else None


def folder_of(name: str) -> Folder | None:
    """Return the folder that a name stands for; None for another data set."""
    if not name.startswith(FOLDER):
        return None
    text = name.removeprefix(FOLDER)
    sized = _SIZE.fullmatch(text)
    text, size = (sized[1], int(sized[2])) if sized else (text, None)
    if not text:
        raise UsageError(f"'{name}' names no folder. Write folder:PATH, such as folder:val.")
    if size is not None and not 1 <= size <= 8192:
        raise UsageError(f"'{name}': images can be resized to 1 to 8192 pixels, not {size}.")
    return Folder(_absolute(text), size)


def corruption_of(name: str) -> Corruption | None:
    """Read 'cifar10c:fog:3'; None for another data set; raises UsageError."""
    if not name.startswith(CORRUPTED):
        return None
    kind, _, severity = name.removeprefix(CORRUPTED).partition(":")
    if not re.fullmatch(r"\w+", kind) or severity not in map(str, _SEVERITIES):
        raise UsageError(
            f"'{name}' is no part of CIFAR-10-C. Write cifar10c:KIND:SEVERITY with a "
            "severity of 1 to 5, such as cifar10c:fog:3."
        )
    return Corruption(kind, int(severity))


def sized(name: str, size: int | None) -> str:
    """Add what --image-size says to a folder's name; raises UsageError for another data set."""
    if size is None:
        return name
    found = folder_of(name)
    if found is None or found.size is not None:
        raise UsageError(
            f"--image-size resizes the images of folder:PATH, not those of '{name}'. "
            "Leave it out."
        )
    return f"{name}@{size}"


def found_at(name: str) -> str | None:
    """Write how a data set of files is found again, by its absolute path; None for others.

    The home folder is ~, since results are shared.
    """
    if path := file_of(name):
        return f"{_portable(path)}{VALIDATION if name.endswith(VALIDATION) else ''}"
    if folder := folder_of(name):
        # A folder may itself be called val@224; a slash then tells it from a size.
        end = "/" if folder.size is None and _SIZE.fullmatch(folder.path.name) else ""
        return f"{FOLDER}{_portable(folder.path)}{end}{_at(folder)}"
    return None


def cell_name(name: str) -> str:
    """Return what results call a data set: the last part of a path; raises UsageError."""
    if path := file_of(name):
        name = f"{path.name}{VALIDATION if name.endswith(VALIDATION) else ''}"
    elif folder := folder_of(name):
        name = f"{FOLDER}{folder.path.name}{_at(folder)}"
    else:
        return name
    check_dataset_name(name)
    return name


def found_again(name: str, sources: Mapping[str, object]) -> str:
    """Return where a cell's data set was found, or its name where the current folder has it."""
    source = sources.get("dataset")
    if not isinstance(source, str):
        return name
    return name if _exists(name) and not _exists(source) else source


def _exists(name: str) -> bool:
    folder = folder_of(name)
    path = folder.path if folder else file_of(name)
    return path is not None and path.exists()


def _at(folder: Folder) -> str:
    return "" if folder.size is None else f"@{folder.size}"


def _portable(path: Path) -> Path:
    home = Path(os.path.expanduser("~"))
    return Path("~", path.relative_to(home)) if path.is_relative_to(home) else path


def _absolute(text: str) -> Path:
    try:
        return Path(os.path.abspath(Path(text).expanduser()))
    except RuntimeError:
        raise UsageError(f"the path {text} names a home folder that is not known.") from None

"""Write where a user asks: a file is replaced as a whole, anything else is written through."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.errors import StoreError, UsageError
from bench.results.files import drop_left, leavings, written


@contextmanager
def delivered(path: Path) -> Iterator[Path]:
    """Hand out a temporary path whose content goes to ``path`` on success; raises StoreError.

    A link, a device or a FIFO stays what it is: renaming a file over it, as ``written`` does,
    would replace ``/dev/null`` by a file.
    """
    if _plain(path):
        with suppress(OSError):  # the folder may not be there yet
            drop_left(path.parent, os.listdir(path.parent), leavings(path))
        with written(path) as temporary:
            yield temporary
        return
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder, "output")
        yield temporary
        content = temporary.read_bytes()
        try:
            with path.open("wb") as file:
                file.write(content)
        except OSError as error:
            raise _cannot_write(path, error) from error


def has_place(path: Path) -> None:
    """Refuse a file, or a folder to write to, in a folder that is not there; raises UsageError.

    A whole path that is not there is more likely mistyped than meant.
    """
    if not path.parent.is_dir():
        raise UsageError(
            f"there is no folder {path.parent} to write {path.name} to. Make it (mkdir -p "
            f"{path.parent}) or name another place."
        )


def _plain(path: Path) -> bool:
    """Whether a path names a regular file, or nothing yet."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return True
    except (OSError, ValueError) as error:  # a null character in a path is a ValueError
        raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: Exception) -> StoreError:
    reason = getattr(error, "strerror", None) or error
    return StoreError(f"cannot write {path}: {reason}. Name another place with --output.")

"""Files that are whole or not there: written under a temporary name and renamed.

Imports no torch. What a killed process left is removed by its name.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bench.errors import StoreError
from bench.results.locks import drop_unkept, kept

# The names that `written` gives: a dot, the name of the file, eight characters that stand for
# this machine (earlier versions had none), eight of mkstemp.
_MACHINE = hashlib.sha256(os.uname().nodename.encode()).hexdigest()[:8]
END = r"\.([0-9a-f]{8})?[a-z0-9_]{8}"
TEMPORARY = re.compile(rf"\..+\.(?:json|parquet|safetensors|pt|md|csv|tex|png|pdf|svg){END}")


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """Hand out a temporary path that becomes ``path`` on success; raises StoreError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file, temporary = _begun(path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)
        os.close(file)


def _begun(path: Path) -> tuple[int, Path]:
    """Make a temporary file; its lock, which ends with its process, says that it is in work."""
    while True:
        file, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.{_MACHINE}")
        if kept(file, Path(name)):
            return file, Path(name)
        os.close(file)


def drop_left(folder: Path, names: Iterable[str], ours: re.Pattern[str]) -> None:
    """Remove temporary files of dead processes, by name: another machine's after a day."""
    yesterday = time.time() - 24 * 3600
    for name in names:
        if not (found := ours.fullmatch(name)):
            continue
        path = Path(folder, name)
        if found[1] == _MACHINE:
            drop_unkept(path)
        with suppress(OSError):  # another process may sweep as well
            if path.lstat().st_mtime < yesterday:  # younger files may be in work
                path.unlink()


def leavings(path: Path) -> re.Pattern[str]:
    """Return the names of the temporary files that become ``path``."""
    return re.compile(re.escape(f".{path.name}") + END)


def _cannot_write(path: Path, error: OSError) -> StoreError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    advice = "Free some space or name" if full else "Name"
    return StoreError(
        f"cannot write {path}: {error.strerror or error}. {advice} another folder with "
        "--results. What is finished is kept: the same command goes on with it once it can be "
        "written there."
    )


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON for people and programs; raises StoreError."""
    with written(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read JSON; raises StoreError where it is damaged."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise cannot_read(path, error) from error
    if not isinstance(content, dict):
        raise StoreError(f"{path} is not what bench wrote. Delete its folder and run again.")
    return content


def cannot_read(path: Path, error: Exception) -> StoreError:
    """Build the error for a file that cannot be read."""
    return StoreError(
        f"cannot read {path}: {error}. Delete its folder and run the command again."
    )

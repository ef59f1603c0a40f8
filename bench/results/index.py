"""What every cell of a results folder says, kept in one file, so that no table reads them all.

    cache/cells.json     derived: it may be deleted at any time, and is made again

An entry counts only while the files of its cell are those that it was read from: same inode,
size, time of writing and time of change, which nobody can set. Files younger than two seconds
are read each time: within a tick of the clock they may change again and look the same. Another
version of bench reads everything again. Imports no torch.
"""

from __future__ import annotations

import gc
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import StoreError
from bench.plugins.sources import digest_of_shipped
from bench.results.files import written
from bench.results.store import Store

_SETTLED_NS = 2 * 10**9  # longer than a tick of any file system's clock
_NO_FILE = [0, 0, 0, 0]


@dataclass(frozen=True)
class Said:
    """What one cell says: its row, whose audit it has, and the error where it is damaged.

    The row has neither audit nor certificate: both are in other files.
    """

    row: Mapping[str, Any]
    subject: str | None
    damage: str | None


def remembered(
    store: Store, keys: Sequence[str], read: Callable[[str], Said | None]
) -> dict[str, Said]:
    """Return what cells say by key, by ``read`` where no entry holds; None leaves a cell out.

    What was read is kept for the next time, where the folder can be written.
    """
    if not keys:
        return {}
    path, cells = store.cache / "cells.json", str(store.root / "cells")
    found: dict[str, Said] = {}
    stale = []
    with _uncollected():
        kept = _kept(path)
        for key in keys:
            entry = kept.get(key)
            if entry and entry[0] == _stamp(cells, key):
                found[key] = Said(*entry[1:])
            else:
                stale.append(key)
    if stale or len(found) < len(kept):
        now = _now(path)
        entries = {key: kept[key] for key in found}
        for key in stale:
            stamp = _stamp(cells, key)  # before it is read: what changes meanwhile is seen
            if (said := read(key)) is not None:
                found[key] = said
                if max(*stamp[2::4], *stamp[3::4]) < now - _SETTLED_NS:
                    entries[key] = [stamp, said.row, said.subject, said.damage]
        if now and entries != kept:
            _keep(path, entries)
    return {key: found[key] for key in keys if key in found}


def _stamp(cells: str, key: str) -> list[int]:
    """Tell one content of the files that make a cell's row from the next."""
    folder = f"{cells}/{key}/"
    outcomes = _of_file(f"{folder}outcomes.parquet")
    others = ("provenance",) if outcomes is not _NO_FILE else ("skipped", "failed")
    stamp = [*_of_file(f"{folder}cell.json"), *outcomes]
    for name in others:
        stamp += _of_file(f"{folder}{name}.json")
    return stamp


def _of_file(path: str) -> list[int]:
    try:
        found = os.stat(path)
    except OSError:
        return _NO_FILE
    return [found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _now(path: Path) -> int:
    """Read the clock that dates the files of a folder; 0 where none can be written."""
    try:
        path.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent) as probe:
            return os.fstat(probe.fileno()).st_mtime_ns
    except OSError:
        return 0


def _kept(path: Path) -> dict[str, list[Any]]:
    """Read earlier entries; none where they are of another version, or damaged."""
    try:
        content = json.loads(path.read_bytes())
        if content["code"] != digest_of_shipped():
            return {}
        heads = content["heads"]
        return {
            key: [stamp, dict(zip(heads[head], values, strict=True)), subject, damage]
            for key, (stamp, head, values, subject, damage) in content["cells"].items()
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}


def _keep(path: Path, entries: Mapping[str, list[Any]]) -> None:
    heads: dict[tuple[str, ...], int] = {}  # names of columns once, not in every row
    cells = {
        key: [stamp, heads.setdefault(tuple(row), len(heads)), [*row.values()], subject, damage]
        for key, (stamp, row, subject, damage) in entries.items()
    }
    content = {"code": digest_of_shipped(), "heads": [*heads], "cells": cells}
    # A row with another value than JSON has, such as NaN, is read each time; so is a full disk.
    with suppress(StoreError, ValueError, TypeError), written(path) as temporary:
        temporary.write_text(json.dumps(content, separators=(",", ":"), allow_nan=False))


@contextmanager
def _uncollected() -> Iterator[None]:
    """Look for no garbage meanwhile: among many new objects that are all kept there is none."""
    active = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if active:
            gc.enable()

"""What a deposit consists of: its members, and a manifest that says all of them again.

The manifest is worked out from the members, when a deposit is written and again when it is
checked, so that it cannot say anything else than they do. Imports no torch.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.errors import StoreError
from bench.results.cell import Cell
from bench.results.files import read_json
from bench.results.store import Store, unchecked_rows

FORMAT = 1
MANIFEST = "deposit.json"
MOST_BYTES = 100_000_000  # of a deposit
MOST_UNPACKED = 2_000_000_000  # of all its members: more is no deposit but an attack
MOST_IMAGES = 10_000_000  # of a cell
_FILES = ("cell.json", "outcomes.parquet", "provenance.json")
_TOP = 255  # of a pixel with 8 bits

Array = npt.NDArray[Any]

_CELL = re.compile(r"cells/([0-9a-f]{16})/(cell\.json|outcomes\.parquet|provenance\.json)")
_IMAGES = re.compile(r"images/([0-9a-f]{16})/(\d{6,8})-(\d{6,8})\.npy")


def cell_members(key: str) -> list[tuple[str, str]]:
    """Name the members that a cell has, each with its file in the cell's folder."""
    return [(f"cells/{key}/{name}", name) for name in _FILES]


def image_members(store: Store, keys: Sequence[str]) -> dict[str, tuple[str, int, int]]:
    """Name the members with attacked images: of which proposals and shard each is.

    Only the shards that have rows; cells of one attack share them.
    """
    found = {}
    for key in keys:
        cell = Cell.read(read_json(store.cell(key) / "cell.json"))
        index = unchecked_rows(store.outcomes(key))["index"].to_numpy(np.int64)
        for start in (np.unique(index // cell.shard) * cell.shard).tolist():
            where = cell.proposal_key(), start, min(start + cell.shard, cell.n)
            found["images/{}/{:06d}-{:06d}.npy".format(*where)] = where
    return found


def cell_of(member: str) -> tuple[str, str] | None:
    """Return the key and the file of a member of a cell; None for any other name."""
    found = _CELL.fullmatch(member)
    return (found[1], found[2]) if found else None


def proposal_of(member: str) -> tuple[str, int, int] | None:
    """Return the proposals and the shard of a member with images; None for any other name."""
    found = _IMAGES.fullmatch(member)
    return (found[1], int(found[2]), int(found[3])) if found else None


def manifest_of(
    store: Store,
    keys: Sequence[str],
    members: Mapping[str, Mapping[str, Any]],
    *,
    images: bool,
    version: str,
) -> dict[str, Any]:
    """Say what these cells and members are; ``members`` have ``sha256`` and ``bytes``."""
    return {
        "format": FORMAT,
        "purifybench": version,
        "images": "as judged" if images else "none",
        "cells": {key: _said(store, key) for key in keys},
        "members": {name: dict(about) for name, about in members.items()},
    }


def _said(store: Store, key: str) -> dict[str, Any]:
    """Say what a cell is and found, and what it was made with."""
    folder = store.cell(key)
    content, about = read_json(folder / "cell.json"), read_json(folder / "provenance.json")
    rows = unchecked_rows(store.outcomes(key))
    parts = ("classifier", "defense", "attack")
    names = ("dataset", "n", "norm", "eps", "access", "seed", "draws")
    return {
        **{name: content[name] for name in names},
        **{part: content[part]["name"] for part in parts},
        "data": content["data"],
        "weights": {part: content[part]["checkpoint"] for part in parts},
        "judged": len(rows),
        "clean": int(rows["clean"].sum()),
        "robust": int(rows["robust"].sum()),
        **{name: about.get(name) for name in ("commit", "date", "versions", "devices")},
    }


def packed(x_adv: Array) -> bytes:
    """Write images (N, C, H, W) float32 as .npy without any loss; raises StoreError.

    On the grid of 8 bits they are bytes, otherwise float32 as the judge saw them.
    """
    if x_adv.dtype != np.float32 or x_adv.ndim != 4 or not np.isfinite(x_adv).all():
        raise StoreError("they are no finite float32 images (N, C, H, W)")
    levels = np.rint(x_adv.astype(np.float64) * _TOP)
    if ((levels >= 0) & (levels <= _TOP)).all():
        small = levels.astype(np.uint8)
        if _of_levels(small).tobytes() == x_adv.tobytes():  # 0.0 and -0.0 are equal
            x_adv = small
    content = io.BytesIO()
    np.lib.format.write_array(
        content, np.ascontiguousarray(x_adv), version=(1, 0), allow_pickle=False
    )
    return content.getvalue()


def unpacked(content: bytes) -> Array:
    """Read images (N, C, H, W) float32 back; raises ValueError for anything else."""
    file = io.BytesIO(content)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("it is no .npy of version 1.0")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if fortran or dtype not in (np.dtype("<f4"), np.dtype("u1")) or len(shape) != 4:
        raise ValueError("it has no images (N, C, H, W) as bytes or float32")
    rest = content[file.tell() :]
    if min(shape) < 1 or len(rest) != int(np.prod(shape, dtype=object)) * dtype.itemsize:
        raise ValueError("its size is not that of its shape")
    found = np.frombuffer(rest, dtype).reshape(shape)
    return _of_levels(found) if dtype == np.dtype("u1") else found.astype(np.float32)


def _of_levels(levels: Array) -> Array:
    """Return the pixels in [0, 1] of bytes, to the bit as the judge rounds them."""
    return (levels.astype(np.float64) / _TOP).astype(np.float32)


def differences(said: Any, found: Any, where: str = "") -> Iterator[str]:
    """Name every place at which a manifest says something else than its members give."""
    if isinstance(said, dict) and isinstance(found, dict):
        for name in sorted({*map(str, said), *map(str, found)}):
            if name not in said or name not in found:
                yield f"{where}{name[:80]!a} is {'missing' if name not in said else 'foreign'}"
            else:
                yield from differences(said[name], found[name], f"{where}{name[:80]}: ")
    elif said != found or type(said) is not type(found):
        yield f"{where}{str(said)[:80]!a}, not {str(found)[:80]!a}"

"""Digests of a finished cell's files, kept in its provenance.json: no damaged byte is a number.

They show damage, not forgery: whoever rewrites all files can write the digests too. Cells from
before they were kept have none, and of those only the key and the number of rows are checked.
Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.results.cell import digest_of, is_key
from bench.results.settings import measured

DIGESTS = "sha256"  # the field of provenance.json
# What reading and hashing content of any shape may raise.
MALFORMED = (
    ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError,
    ValueError,
)  # fmt: skip


def digest_of_pixels(path: Path) -> str | None:
    """Hash the pixels of an attack's images, not their header; None where there are none.

    The header has the seconds of the attack: images that are made again have other ones.
    """
    if not path.is_file():
        return None
    packed = path.read_bytes()
    header = int.from_bytes(packed[:8], "little")
    return hashlib.sha256(packed[8 + header :]).hexdigest()


def sealed(
    cell: Mapping[str, Any],
    provenance: Mapping[str, Any],
    outcomes: Path,
    images: Mapping[str, str | None],
) -> dict[str, Any]:
    """Add the digests of a cell's files, and of the images by shard, to its provenance."""
    return {
        **provenance,
        DIGESTS: {
            "outcomes.parquet": hashlib.sha256(outcomes.read_bytes()).hexdigest(),
            "cell.json": digest_of(cell),
            "provenance.json": digest_of({**provenance, "images": images}),
            "images": dict(images),
        },
    }


def fault(folder: Path) -> str | None:
    """Return which file of a cell is not what was written, and why; None where all are."""
    try:
        cell = _read(folder / "cell.json")
        if malformed := fault_of_keys(cell):
            return malformed
        if digest_of(measured(cell)) != folder.name:
            return "cell.json is not the cell of this key"
    except MALFORMED as error:
        return f"cell.json cannot be read ({type(error).__name__}: {error})"
    outcomes = folder / "outcomes.parquet"
    if not outcomes.is_file():
        return None
    try:
        provenance = _read(folder / "provenance.json")
        if DIGESTS not in provenance:
            return None
        found = sealed(
            cell,
            {name: value for name, value in provenance.items() if name != DIGESTS},
            outcomes,
            provenance[DIGESTS]["images"],
        )[DIGESTS]
        for name, digest in found.items():
            if provenance[DIGESTS].get(name) != digest:
                return f"{name} is not what was written: its SHA-256 has changed"
    except MALFORMED as error:
        return f"provenance.json cannot be read ({type(error).__name__}: {error})"
    return None


def fault_of_keys(cell: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the keys that a cell names; they become paths of folders."""
    named = [*cell.get("after", ()), cell.get("images") or "0" * 16]
    if all(map(is_key, named)):
        return None
    return "cell.json: 'after' and 'images' have to be keys of 16 hexadecimal digits"


def _read(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_bytes())
    if not isinstance(content, dict):
        raise TypeError("it is no JSON object")
    return content

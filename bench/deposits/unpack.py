"""Make a results folder of a deposit, under names of our own, once all of it was checked.

What a deposit says of itself has to follow from its members: a manifest that somebody changed
is named, and so is a member. Imports no torch.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
from safetensors.numpy import save

from bench.deposits.archive import Archive, broken
from bench.deposits.contents import (
    FORMAT,
    MANIFEST,
    MOST_IMAGES,
    MOST_UNPACKED,
    cell_members,
    cell_of,
    differences,
    image_members,
    manifest_of,
    proposal_of,
    unpacked,
)
from bench.errors import BenchError, StoreError
from bench.plugins.names import parsed
from bench.results.cell import SOURCES, Cell, digest_of, is_key
from bench.results.digests import DIGESTS, MALFORMED, fault
from bench.results.files import read_json, write_json
from bench.results.settings import Settings
from bench.results.store import Store

_MOST_VALUES = 10**9  # numbers in the rows of a cell


@dataclass(frozen=True)
class Deposit:
    """A deposit as a results folder: its cells, and whether it has their attacked images."""

    store: Store
    keys: tuple[str, ...]
    images: bool


def unpack(archive: Archive, root: Path) -> Deposit:
    """Write the cells and images of a deposit to the folder ``root``; raises StoreError."""
    manifest = _manifest(archive)
    store = Store(root)
    for name in sorted(archive.names - {MANIFEST}):
        content = archive.read(name)
        said = manifest["members"][name]
        if (len(content), _sha256(content)) != (said.get("bytes"), said.get("sha256")):
            raise broken(archive.path, [f"{name} was changed: another SHA-256"])
        try:
            _write(store, name, content)
        except (*MALFORMED, pa.ArrowException) as error:
            raise broken(archive.path, [f"{name} cannot be read ({error})"]) from error
    keys = tuple(sorted(manifest["cells"]))
    images = manifest.get("images") == "as judged"
    try:
        faults = list(_faults(store, keys, manifest, images=images))
    except (BenchError, *MALFORMED) as error:
        faults = [f"its cells are of another version or were changed ({error})"]
    if faults:
        raise broken(archive.path, faults)
    for key in keys:
        _look_here_only(store, key)
    return Deposit(store, keys, images)


def _manifest(archive: Archive) -> dict[str, Any]:
    """Read the manifest and compare the names that it has with those that are there."""
    try:
        manifest = json.loads(archive.read(MANIFEST))
        if manifest["format"] != FORMAT:
            raise StoreError(
                f"{archive.path} has the format {str(manifest['format'])[:20]} of deposits, "
                f"written by purifybench {str(manifest.get('purifybench'))[:20]}, and this "
                f"version reads {FORMAT}. Install that version."
            )
        wanted, cells = set(manifest["members"]), set(manifest["cells"])
        if not cells or not all(map(is_key, cells)):
            raise ValueError("it names no cells")
        if not all(isinstance(said, dict) for said in manifest["members"].values()):
            raise ValueError("a member has no digest")
    except MALFORMED as error:
        raise broken(archive.path, [f"{MANIFEST} cannot be read ({error})"]) from error
    there = archive.names - {MANIFEST}
    faults = [f"{name[:100]!a} is missing" for name in sorted(wanted - there)]
    faults += [f"{name} is foreign: {MANIFEST} does not list it" for name in
               sorted(there - wanted)]  # fmt: skip
    own = {member for key in cells for member, _ in cell_members(key)}
    faults += [f"{name} is missing" for name in sorted(own - there - wanted)]
    faults += [f"{name} belongs to no cell of {MANIFEST}" for name in
               sorted(there - own) if cell_of(name)]  # fmt: skip
    if faults:
        raise broken(archive.path, faults)
    return dict(manifest)


def _write(store: Store, name: str, content: bytes) -> None:
    """Keep one member where the store has it; raises ValueError for what it cannot be."""
    if where := cell_of(name):
        path = store.cell(where[0]) / where[1]
        if where[1] == "outcomes.parquet":
            _check_rows(content)
        else:
            json.loads(content)
    else:
        place = proposal_of(name)
        assert place is not None  # names were checked
        path = store.proposal(*place)
        content = save({"x_adv": unpacked(content)})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _check_rows(content: bytes) -> None:
    """Refuse rows that would not fit the memory before they are read; raises ValueError."""
    about = parquet.ParquetFile(io.BytesIO(content)).metadata
    columns = [
        about.row_group(group).column(column)
        for group in range(about.num_row_groups)
        for column in range(about.num_columns)
    ]
    values = sum(column.num_values for column in columns)
    size = sum(column.total_uncompressed_size for column in columns)
    if about.num_rows > MOST_IMAGES or values > _MOST_VALUES or size > MOST_UNPACKED:
        raise ValueError(f"it says {about.num_rows:,} rows of {values:,} numbers")


def _faults(
    store: Store, keys: tuple[str, ...], manifest: Mapping[str, Any], *, images: bool
) -> Iterator[str]:
    """Name what the cells say otherwise than themselves, or the manifest than they."""
    for key in keys:
        content = read_json(store.cell(key) / "cell.json")
        if not (isinstance(content.get("n"), int) and 0 < content["n"] <= MOST_IMAGES):
            yield f"cell {key} has no number of images"
            return
        if found := fault(store.cell(key)):
            yield f"cell {key}: {found}"
        Cell.read(content)
    members = {member for key in keys for member, _ in cell_members(key)}
    if images:
        members |= set(image_members(store, keys))
    listed = set(manifest["members"])
    for name in sorted(members ^ listed):
        yield f"{name} is missing" if name in members else f"{name} is foreign"
    again = manifest_of(
        store, keys, manifest["members"], images=images,
        version=str(manifest.get("purifybench")),
    )  # fmt: skip
    for text in differences(dict(manifest), again):
        yield f"{MANIFEST} was changed: {text}"


def _look_here_only(store: Store, key: str) -> None:
    """Let files of plugins and data sets be looked for in the current folder only.

    A deposit comes from somebody else: it does not say which file of this machine is run.
    """
    path = store.cell(key) / "cell.json"
    content = read_json(path)
    if not content.get("names") and not content.get(SOURCES):
        return
    content["names"] = {kind: _bare(name) for kind, name in Settings.read(content).names}
    if content.get(SOURCES):
        content[SOURCES] = {"dataset": content["dataset"]}
    write_json(path, content)
    about = read_json(store.cell(key) / "provenance.json")
    if DIGESTS in about:  # what it was sealed with has been checked
        about[DIGESTS]["cell.json"] = digest_of(content)
        write_json(store.cell(key) / "provenance.json", about)


def _bare(name: str) -> str:
    """Return a plugin's name without the folders of its files."""
    typed = parsed(name)
    if typed is None:
        return name
    weights = Path(typed.weights).name if typed.weights else None
    return str(replace(typed, source=Path(typed.source).name, weights=weights))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

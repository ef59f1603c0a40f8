"""Write a deposit: the same cells always give the same bytes. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load_file

from bench import __version__
from bench.deposits.contents import (
    MANIFEST,
    MOST_BYTES,
    MOST_UNPACKED,
    cell_members,
    image_members,
    manifest_of,
    packed,
)
from bench.errors import StoreError, UsageError
from bench.results.output import delivered
from bench.results.progress import Progress, Work
from bench.results.store import Store

_LEVEL = 6  # of deflate
_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can say


@dataclass(frozen=True)
class Written:
    """A deposit that was written: its SHA-256, its size in bytes and its cells."""

    sha256: str
    size: int
    keys: tuple[str, ...]


def attest(store: Store, keys: Sequence[str], path: Path, *, images: bool) -> Work[Written]:
    """Write a deposit of finished cells; raises UsageError where it is too large."""
    about: dict[str, dict[str, Any]] = {}
    sources = list(_members(store, keys, images=images))
    for name, content in _read(sources):
        about[name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    if sum(one["bytes"] for one in about.values()) > MOST_UNPACKED:
        raise _too_large(MOST_UNPACKED, "unpacked ", images=images)
    manifest = manifest_of(store, keys, about, images=images, version=__version__)
    text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
    with delivered(path) as temporary:
        with zipfile.ZipFile(temporary, "w") as archive:
            _add(archive, MANIFEST, text.encode())
            for done, (name, content) in enumerate(_read(sources)):
                yield Progress("deposit", done, len(sources))
                _add(archive, name, content)
                if temporary.stat().st_size > MOST_BYTES:
                    raise _too_large(MOST_BYTES, "", images=images)
        yield Progress("deposit", len(sources), len(sources))
        whole = temporary.read_bytes()
        if len(whole) > MOST_BYTES:
            raise _too_large(MOST_BYTES, "", images=images)
    return Written(hashlib.sha256(whole).hexdigest(), len(whole), tuple(keys))


def _members(store: Store, keys: Sequence[str], *, images: bool) -> Iterator[tuple[str, Path]]:
    for key in keys:
        for member, file in cell_members(key):
            yield member, store.cell(key) / file
    if images:
        for member, where in sorted(image_members(store, keys).items()):
            yield member, store.proposal(*where)


def _read(sources: Sequence[tuple[str, Path]]) -> Iterator[tuple[str, bytes]]:
    for member, path in sources:
        try:
            if path.suffix == ".safetensors":
                yield member, packed(load_file(path)["x_adv"])
            else:
                yield member, path.read_bytes()
        except (OSError, SafetensorError, KeyError, StoreError) as error:
            raise StoreError(
                f"cannot read {path}: {error}. Delete its folder and run the command again."
            ) from error


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, _DATE)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.create_system = 3  # Unix, on every system
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, content, compresslevel=_LEVEL)


def _too_large(most: int, what: str, *, images: bool) -> UsageError:
    smaller = "leave the images out with --without-images, or name " if images else "name "
    return UsageError(
        f"the deposit would have more than {what}{most // 10**6} MB, the most that one may "
        f"have: {smaller}fewer keys."
    )

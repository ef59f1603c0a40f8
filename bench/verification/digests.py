"""Compare the files of a cell with the digests that its provenance has."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.results.cell import digest_of
from bench.results.store import Store


def changed(folder: Path, cell: Mapping[str, Any], about: Mapping[str, Any]) -> Iterator[str]:
    """Name every file of a cell that is not what was written; none where it has no digests."""
    if "sha256" not in about:
        return
    said = about["sha256"]
    rest = {name: value for name, value in about.items() if name != "sha256"}
    found = {
        "outcomes.parquet": hashlib.sha256(
            (folder / "outcomes.parquet").read_bytes()
        ).hexdigest(),
        "cell.json": digest_of(cell),
        "provenance.json": digest_of({**rest, "images": said["images"]}),
    }
    for name, digest in found.items():
        if said.get(name) != digest:
            yield f"{name} is not what was written: its SHA-256 has changed"


def changed_images(store: Store, key: str, about: Mapping[str, Any]) -> Iterator[str]:
    """Name every file of stored images, by their key, whose pixels are others than judged."""
    for shard, digest in about.get("sha256", {}).get("images", {}).items():
        start, stop = map(int, shard.split("-"))
        path = store.proposal(key, start, stop)
        if digest is None or not path.is_file():
            continue  # images that are not there are told of elsewhere
        packed = path.read_bytes()
        size = int.from_bytes(packed[:8], "little")
        if hashlib.sha256(packed[8 + size :]).hexdigest() != digest:
            yield f"images {path.name} are not those that were judged: another SHA-256"

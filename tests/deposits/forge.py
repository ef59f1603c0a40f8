"""What somebody may do to a deposit, or to the cells before they are handed in."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.results.digests import DIGESTS, digest_of_pixels, sealed
from bench.results.files import read_json, write_json
from bench.results.store import Store

Members = dict[str, bytes]


def members(path: Path) -> Members:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(path: Path, entries: Iterable[tuple[str | zipfile.ZipInfo, bytes]]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            archive.writestr(name, content)


def manifest(found: Members) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(found["deposit.json"])
    return content


def with_manifest(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    found = members(path)
    content = manifest(found)
    change(content)
    zipped(path, {**found, "deposit.json": json.dumps(content).encode()}.items())


def reseal(cell: Path, images: dict[str, str | None] | None = None) -> None:
    """Write the digests anew that a forger has to write."""
    about = read_json(cell / "provenance.json")
    known = about.pop(DIGESTS)["images"] if images is None else images
    about.pop(DIGESTS, None)
    content = read_json(cell / "cell.json")
    write_json(
        cell / "provenance.json", sealed(content, about, cell / "outcomes.parquet", known)
    )


def with_rows(cell: Path, change: Callable[[pd.DataFrame], None]) -> None:
    """Change a cell's rows and all digests of them."""
    rows = pd.read_parquet(cell / "outcomes.parquet")
    change(rows)
    rows.to_parquet(cell / "outcomes.parquet", index=False)
    reseal(cell)


def with_images(store: Store, cell: Path, change: Callable[[Tensor], Tensor]) -> None:
    """Change a cell's attacked images and all digests of them."""
    digests = {}
    for path in sorted((store.root / "images").rglob("*.safetensors")):
        x_adv = change(load_file(path)["x_adv"])
        save_file({"x_adv": x_adv}, path)
        digests[path.stem] = digest_of_pixels(path)
    reseal(cell, digests)

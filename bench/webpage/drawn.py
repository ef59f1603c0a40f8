"""Strips that `bench figure strips` drew before, for the cells of a page. Imports no torch."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import StoreError
from bench.figures.output import read
from bench.results.cell import digest_of
from bench.results.digests import MALFORMED
from bench.results.files import read_json
from bench.results.settings import measured
from bench.webpage.chosen import Chosen
from bench.webpage.defenses import Fact

_BYTES = 2_000_000  # of all pictures together: a page is to be sent by mail


@dataclass(frozen=True)
class Drawn:
    """A figure as it was drawn: its PNG as a data URI, and where it comes from."""

    title: str
    source: str
    alt: str
    command: str
    facts: tuple[Fact, ...]


def drawn(chosen: Chosen) -> list[Drawn]:
    """Read the strips of the cells on a page, in the order of their names, while there is room.

    What cannot be read is left out.
    """
    found, room = [], _BYTES
    for path in sorted(chosen.store.figures.glob("strips-*.json")):
        picture = path.with_suffix(".png")
        try:
            about = read_json(path)
            keys = [digest_of(measured(cell)) for cell in about["cells"]]
            if set(keys).isdisjoint(chosen.contents):
                continue
            packed = picture.read_bytes()
            if len(packed) > room:
                continue
            found.append(_figure(about, keys, packed, path.with_suffix(".csv")))
            room -= len(packed)
        except (StoreError, *MALFORMED):
            continue
    return found


def _figure(about: dict[str, Any], keys: list[str], packed: bytes, numbers: Path) -> Drawn:
    cell = about["cells"][0]
    who = f"{cell['defense']['name']} under {cell['attack']['name']} ({cell['access']})"
    return Drawn(
        f"Strips: {who}, {cell['dataset']}, {cell['norm']} {cell['eps']}",
        "data:image/png;base64," + base64.b64encode(packed).decode(),
        f"Pictures of {who}, clean, attacked and purified. " + " ".join(_said(numbers)),
        str(about["command"]),
        tuple(_facts(about, keys)),
    )


def _said(numbers: Path) -> Iterator[str]:
    for index, rows in read(numbers).groupby("index", sort=False):
        seen = dict(zip(rows["steps"], rows["predicted"], strict=True))
        yield (
            f"Image {index}, class {rows['label'].iloc[0]}: seen clean as {seen[-1]}, attacked "
            f"as {seen[0]}, purified as {seen[max(seen)]}."
        )


def _facts(about: dict[str, Any], keys: list[str]) -> Iterator[Fact]:
    for key in keys:
        yield Fact("key", key, exact=True)
    for name, digest in about["checkpoints"].items():
        yield Fact(f"checkpoint of {name}", str(digest), exact=True)
    yield Fact("images and labels", str(about["data"]), exact=True)
    yield Fact("commit", str(about["commit"]), exact=True)

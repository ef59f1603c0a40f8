"""What a page says of each defense: the story of its attacks, and where each cell is from.

The story is that of `bench report`. Imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bench.errors import UsageError
from bench.results.defense_report import attacked, in_order, kind_of, told
from bench.results.digests import DIGESTS
from bench.results.settings import Settings
from bench.webpage.chosen import Chosen
from bench.webpage.matrix import common_settings, of_attack, of_defense


@dataclass(frozen=True)
class Fact:
    """Something that is known of a cell; ``exact`` where it is to be copied, not read."""

    name: str
    text: str
    exact: bool = False


@dataclass(frozen=True)
class Origin:
    """Where a number comes from: its cell, and what made it."""

    key: str
    attack: str
    facts: tuple[Fact, ...]


@dataclass(frozen=True)
class Told:
    """One defense on some images: its ``story`` or the ``trouble`` that it has none.

    ``anchor`` names its place on the page, and ``keys`` its cells in the order of attack.
    """

    anchor: str
    defense: str
    settings: str
    ball: str
    images: str
    story: Mapping[str, Any] | None
    trouble: str
    keys: tuple[str, ...]
    origins: tuple[Origin, ...]

    @property
    def title(self) -> str:
        """The defense with what was set."""
        return " ".join(filter(None, [self.defense, self.settings]))

    @property
    def place(self) -> str:
        """The data set, the ball and the images."""
        return f"{self.ball}, {self.images}"


def defenses(chosen: Chosen) -> list[Told]:
    """Tell of every defense that has finished cells, in the order of the table."""
    kinds: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for key in filter(chosen.abouts.__contains__, chosen.cells["key"]):
        cell = chosen.cell(key)
        kinds.setdefault(kind_of(cell), []).append(cell)
    common = common_settings(chosen.contents)
    return [
        _told(chosen, f"d-{number}", cells, common)
        for number, cells in enumerate(kinds.values(), 1)
    ]


def _told(chosen: Chosen, anchor: str, cells: list[dict[str, Any]], common: Settings) -> Told:
    first = cells[0]
    ours = in_order(filter(attacked, cells))
    story, trouble = None, ""
    try:
        if not ours:
            raise UsageError(
                "its images are those of another cell, judged again: no attack was made on it. "
                "`bench run` makes one."
            )
        story = told(chosen.store, ours)
    except UsageError as error:
        trouble = str(error)
    return Told(
        anchor,
        first["defense"]["name"],
        of_defense(first, common),
        f"{first['dataset']}, {first['norm']} {first['eps']}",
        f"first {first['n']} images" + (f", seed {first['seed']}" if first["seed"] else ""),
        story,
        trouble,
        tuple(cell["key"] for cell in ours),
        tuple(Origin(cell["key"], _attack(cell), tuple(_facts(cell))) for cell in cells),
    )


def _attack(cell: Mapping[str, Any]) -> str:
    name = f"{cell['attack']['name']} ({cell['access']})"
    return ", ".join(filter(None, [name, of_attack(cell)]))


def _facts(cell: Mapping[str, Any]) -> Iterator[Fact]:
    about = cell["about"]
    yield Fact("command", about["command"], exact=True)
    yield Fact("key", cell["key"], exact=True)
    for name in ("defense", "classifier", "attack"):
        part = cell[name]
        params = json.dumps(part["params"], sort_keys=True)
        yield Fact(name, f"{part['name']}, revision {part['revision']}, {params}")
        for kind in ("checkpoint", "source", "beside"):
            if part.get(kind):
                yield Fact(f"{kind} of the {name}", part[kind], exact=True)
    yield Fact("images and labels", cell["data"], exact=True)
    digests = about.get(DIGESTS) or {}
    for name in ("outcomes.parquet", "cell.json", "provenance.json"):
        if name in digests:
            yield Fact(name, digests[name], exact=True)
    yield Fact("commit", about["commit"] or "unknown", exact=True)
    yield Fact("date", about["date"])
    yield Fact("devices", ", ".join(map(str, about["devices"])))
    yield Fact("versions", ", ".join(f"{k} {v}" for k, v in about["versions"].items()))
    if about["flags"]:
        yield Fact("remarks", "; ".join(map(str, about["flags"])))

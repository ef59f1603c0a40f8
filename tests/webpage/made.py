"""Finished cells without any evaluation, and what a page has, read back. Imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from fractions import Fraction
from html.parser import HTMLParser
from typing import Any

import numpy as np

from bench.core.threat import Access, Norm, ThreatModel
from bench.results.cell import Cell, Part
from bench.results.settings import Settings
from bench.results.store import Store

N = 8
ABOUT = {
    "attack passes": {"net forward": 80},
    "judge passes": {"net forward": 40},
    "attack seconds": 1.0,
    "judge seconds": 1.0,
    "peak memory MiB": 100,
    "flags": [],
    "commit": "c" * 40,
    "date": "2026-01-02T03:04:05Z",
    "command": "bench run --defense made",
    "device": "cpu",
    "versions": {"purifybench": "0.1.0"},
}


def cell(
    defense: str = "made",
    attack: str = "apgd",
    *,
    params: Mapping[str, Any] | None = None,
    access: Access = Access.FULL,
    eps: Fraction = Fraction(1, 10),
    n: int = N,
    after: tuple[str, ...] = (),
) -> Cell:
    return Cell(
        dataset="digits",
        data="d" * 64,
        n=n,
        shard=n,
        classifier=Part("net", {}, 1, "a" * 64),
        defense=Part(defense, dict(params or {}), 1, "b" * 64),
        attack=Part(attack, {"steps": 3}, 1),
        threat=ThreatModel(Norm.LINF, eps, access),
        seed=0,
        draws=5,
        after=after,
    )


def keep(
    store: Store,
    made: Cell,
    robust: Sequence[bool],
    *,
    index: Sequence[int] | None = None,
    legal: bool = True,
    **about: Any,
) -> str:
    """Store a finished cell with this outcome per image, and return its key."""
    right, wrong = np.array([5, 0]), np.array([0, 5])
    count = len(robust)
    rows = {
        "index": list(index if index is not None else range(count)),
        "label": [0] * count,
        "distance": [0.05 if legal else 0.5] * count,
        "legal": [legal] * count,
        "clean": [True] * count,
        "robust": list(robust),
        "clean_votes": [right] * count,
        "votes": [right if one else wrong for one in robust],
    }
    store.open(made, Settings.of({"defense": made.defense.params}))
    store.append(made, 0, rows, {**ABOUT, **about})

    def join(shards: list[dict[str, Any]]) -> dict[str, Any]:
        first = shards[0]
        return {**first, "devices": [first.pop("device")]}

    store.finish(made, join)
    return made.key()


def ladder(store: Store, defense: str = "made", **options: Any) -> tuple[str, str]:
    """Store two attacks, the second on what the first left: 6, then 3 of 8 images survive."""
    first = keep(store, cell(defense, "noise", **options), [True] * 6 + [False] * 2)
    second = keep(
        store, cell(defense, "apgd", after=(first,), **options), [True] * 3 + [False] * 3
    )
    return first, second


def changed(made: Cell, **fields: Any) -> Cell:
    return dataclasses.replace(made, **fields)


class Page(HTMLParser):
    """The tags of a page with their attributes, and the text of the first table, row by row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.rows: list[list[str]] = []
        self._open: list[str] = []
        self._tables = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        self._open.append(tag)
        self._tables += tag == "table"
        if self._tables == 1:
            if tag == "tr":
                self.rows.append([])
            elif tag in ("th", "td"):
                self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass
        if tag == "table":
            self._tables += 1  # the next one is no longer the first

    def handle_data(self, data: str) -> None:
        if self._tables == 1 and {"th", "td"} & set(self._open):
            self.rows[-1][-1] += data

    def all(self, name: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.tags if tag == name]

    def values(self, attribute: str) -> list[str]:
        return [found[attribute] for _, found in self.tags if attribute in found]

    @property
    def table(self) -> list[dict[str, str]]:
        """The rows of the first table by their heads."""
        heads, *lines = self.rows
        return [dict(zip(heads, line, strict=True)) for line in lines]

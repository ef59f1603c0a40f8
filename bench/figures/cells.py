"""The points of a curve: finished cells that differ in only one number. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from bench.errors import UsageError
from bench.results.cell import digest_of
from bench.results.cell_row import accuracies, damaged_cells
from bench.results.files import read_json
from bench.results.settings import flat, has, measured
from bench.results.store import Store, read_rows

SHARES = [
    f"{name}{end}" for name in ("clean", "robust") for end in ("", "_low", "_high")
]  # in percent, with 95 % Wilson intervals
_NAMES = ("dataset", "classifier", "defense", "attack", "access", "norm", "eps", "n", "seed")


@dataclass(frozen=True)
class Wanted:
    """Which finished cells a figure is drawn from; None, () and {} accept any.

    ``settings`` has the parameters that a cell must have, of attack, defense and classifier.
    """

    dataset: str
    defenses: tuple[str, ...] = ()
    attacks: tuple[str, ...] = ()
    access: str | None = None
    norm: str | None = None
    eps: str | None = None
    n: int | None = None
    seed: int | None = None
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def takes(self, cell: Mapping[str, Any]) -> bool:
        """Whether a cell (as it was stored) is one of those."""
        named = (
            (self.defenses, cell["defense"]["name"]),
            (self.attacks, cell["attack"]["name"]),
        )
        fields = ("access", "norm", "eps", "n", "seed")
        return (
            cell["dataset"] == self.dataset
            and all(not names or name in names for names, name in named)
            and all(getattr(self, name) in (None, cell[name]) for name in fields)
            and all(has(cell[part]["params"], set_) for part, set_ in self.settings.items())
            and of_one_attack(cell)
        )


def of_one_attack(cell: Mapping[str, Any]) -> bool:
    """Whether a cell has one attack's accuracy: no survivors of others, not judged again."""
    return not any(cell.get(name) for name in ("after", "images", "bits"))


def finished(store: Store, wanted: Wanted) -> Iterator[tuple[str, dict[str, Any]]]:
    """List key and content of the finished cells wanted, neither void nor damaged ones."""
    damaged = damaged_cells(store)
    for folder in store.cells():
        if folder.name in damaged:
            continue
        cell = read_json(folder / "cell.json")
        if (
            store.outcomes(folder.name).is_file()
            and wanted.takes(cell)
            and read_rows(store.outcomes(folder.name))["legal"].all()
        ):
            yield folder.name, cell


def points(
    store: Store,
    wanted: Wanted,
    *,
    figure: str,
    value: str,
    number: Callable[[Mapping[str, Any]], float | None],
    fixed: Callable[[dict[str, Any]], dict[str, Any]],
) -> pd.DataFrame:
    """Read a row per cell, ``curve`` naming those that differ only in the number ``value``.

    ``number`` reads it of a cell, None where the cell has none, and ``fixed`` returns the cell
    without it. Raises UsageError where no cell is left, and StoreError.
    """
    cells = (
        (key, cell, accuracies(read_rows(store.outcomes(key))))
        for key, cell in finished(store, wanted)
        if number(cell) is not None
    )
    frame = points_of(cells, value=value, number=number, fixed=fixed)
    if frame.empty:
        raise UsageError(_nothing(store, wanted, figure))
    return frame


def points_of(
    cells: Iterable[tuple[str, Mapping[str, Any], Mapping[str, float]]],
    *,
    value: str,
    number: Callable[[Mapping[str, Any]], float | None],
    fixed: Callable[[dict[str, Any]], dict[str, Any]],
) -> pd.DataFrame:
    """Make a row per cell of key, content and accuracies in percent, as ``points`` does."""
    rows, parts = [], []
    for key, cell, shares in cells:
        names = {name: _name(cell[name]) for name in _NAMES}
        digests = {
            "classifier_checkpoint": cell["classifier"]["checkpoint"],
            "checkpoint": cell["defense"]["checkpoint"],
        }
        rows.append(
            {**names, **{name: shares[name] for name in SHARES}, **digests, "key": key,
             value: number(cell)}
        )  # fmt: skip
        parts.append(measured(fixed(dict(cell))))
    frame = pd.DataFrame(rows)
    if rows:
        frame.insert(0, "curve", _labels(parts))
        frame = frame.sort_values(["curve", value], kind="stable", ignore_index=True)
    return frame


def about(frame: pd.DataFrame) -> dict[str, Any]:
    """Return which cells a figure is made from: keys, seeds, numbers of images, checkpoints."""
    digests = pd.concat([frame["classifier_checkpoint"], frame["checkpoint"]]).dropna()
    return {
        "seed": sorted({int(seed) for seed in frame["seed"]}),
        "n": sorted({int(n) for n in frame["n"]}),
        "checkpoints": sorted({digest for digest in digests if digest}),
        "cells": sorted(set(frame["key"])),
    }


def _name(content: Any) -> Any:
    return content["name"] if isinstance(content, dict) else content


def _nothing(store: Store, wanted: Wanted, figure: str) -> str:
    asked = [wanted.dataset, "/".join(wanted.defenses), "/".join(wanted.attacks)]
    asked += [wanted.access or "", wanted.norm or "", wanted.eps or ""]
    asked += [f"{name} {value}" for name, value in (("n", wanted.n), ("seed", wanted.seed))
              if value is not None]  # fmt: skip
    return (
        f"{store.root} has no finished cell for the figure '{figure}' "
        f"({', '.join(filter(None, asked))}). Make some with `bench run` or a plan and "
        "`bench matrix`, or choose their folder with --results."
    )


def _labels(parts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Name every curve by its defense and attack, and by whatever else differs from others."""
    spelt = [dict(flat(part)) for part in parts]
    alike: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for one in spelt:
        alike.setdefault(_who(one), []).append(one)
    attacks = {_who(one)[1:] for one in spelt}
    found = []
    for one in spelt:
        group = alike[_who(one)]
        differ = [
            name
            for name in sorted({name for other in group for name in other})
            if len({str(other.get(name)) for other in group}) > 1 and name not in _NO_LABEL
        ]
        name, attack, access = _who(one)
        head = f"{name}, {attack} ({access})" if len(attacks) > 1 else str(name)
        found.append(", ".join([head, *(f"{_short(name)} {one.get(name)}" for name in differ)]))
    # Two checkpoints of one recipe, or other data: only a digest tells them apart.
    digests = [digest_of(one) for one in spelt]
    seen: dict[str, set[str]] = {}
    for label, digest in zip(found, digests, strict=True):
        seen.setdefault(label, set()).add(digest)
    return [
        f"{label}, {digest[:4]}" if len(seen[label]) > 1 else label
        for label, digest in zip(found, digests, strict=True)
    ]


_NO_LABEL = ("data", "classifier.checkpoint", "defense.checkpoint", "shard")


def _who(cell: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    return cell["defense.name"], cell["attack.name"], cell["access"]


def _short(name: str) -> str:
    """Write 'attack.params.steps' as 'attack.steps', and drop 'defense.' at the start."""
    return name.replace(".params.", ".").removeprefix("defense.")

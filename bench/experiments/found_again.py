"""The request behind a stored cell, with the files of its plugins where they are now."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bench.data.names import found_again as dataset_found
from bench.errors import CheckpointError
from bench.plugins.files import load
from bench.plugins.names import ARCHITECTURES, Typed, parsed
from bench.results.cell import Cell, Part, Request
from bench.results.files import read_json
from bench.results.settings import Settings
from bench.results.store import Store


def found_again(cell: Cell, store: Store, *, parts: tuple[str, ...]) -> Request:
    """Return the request of a stored cell; raises CheckpointError where a file is not the same.

    ``parts``: of which of defense, attack and classifier the files are needed.
    """
    request, content = cell.request(), read_json(store.cell(cell.key()) / "cell.json")
    names, found = dict(Settings.read(content).names), {}
    for kind in parts:
        part: Part = getattr(cell, kind)
        typed = parsed(part.name)
        if typed is None or not (typed.in_file or typed.source in ARCHITECTURES):
            continue
        there = parsed(names.get(kind, part.name)) or typed
        if typed.in_file:
            there = replace(there, source=_place(there.source, part, cell))
        if there.weights:
            there = replace(there, weights=_place(there.weights, part, cell))
        _check_source(there, part, cell)
        found[kind] = str(there)
    return replace(
        request,
        dataset=dataset_found(cell.dataset, cell.sources),
        defense=found.get("defense", request.defense),
        attack=found.get("attack", request.attack),
        classifier=found.get("classifier", request.classifier),
    )


def _place(path: str, part: Part, cell: Cell) -> str:
    """Find a file where it was, or in the current folder; raises CheckpointError."""
    for place in (Path(path).expanduser(), Path(Path(path).name)):
        if place.is_file():
            return str(place)
    raise CheckpointError(
        f"cell {cell.key()} was measured with {part.name}, and its file {path} is not there. "
        "Put it back, or run the command in the folder that has it."
    )


def _check_source(typed: Typed, part: Part, cell: Cell) -> None:
    if part.source is None or (found := load(typed.source).digest) == part.source:
        return
    raise CheckpointError(
        f"{typed.source} has changed since cell {cell.key()} was measured with {part.name}: "
        f"the SHA-256 of its source is {found[:16]}, not {part.source[:16]}. Restore that "
        "file, or measure a new cell with `bench run`."
    )

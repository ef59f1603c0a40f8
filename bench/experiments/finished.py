"""Finished requests, known again without torch: the keys that the same question led to before.

    cache/requests/<hash of the question>.json     derived, as all of that folder

The key of a cell is made of parameters, weights and data. Where everything that takes part
ships with bench, these follow from the request, the files of bench, of the data sets and of the
checkpoints, and from the libraries. All files are compared by content. Where one differs, or
where something else takes part (code, images or weights of the user, the zoo), there is no
answer, and the command goes the usual way. Imports no torch.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Any

from bench.core.threat import format_eps
from bench.data.datasets import dataset_info
from bench.data.published import files_of
from bench.errors import BenchError
from bench.experiments.plan import Plan
from bench.experiments.states import CellState, CellStatus
from bench.plugins.catalogue import Kind, is_ours
from bench.plugins.sources import digest_of_shipped
from bench.results.cell import Request, digest_of
from bench.results.files import read_json, write_json
from bench.results.store import Store

_LIBRARIES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "pydantic", "PyYAML")
_DEVICES = ("auto", "cpu")  # others may not be there
# What reading a record of another version, or a damaged one, may raise.
_MALFORMED = (BenchError, LookupError, TypeError, ValueError, AttributeError)


@dataclass(frozen=True)
class Known:
    """A finished cell that answers a request, and its title in a plan."""

    key: str
    title: str = ""


def known(
    requests: Sequence[Request], *, store: Store, data: Path, device: str, ladder: object = None
) -> list[Known] | None:
    """Return the cells that answered these requests before, in the order of their work.

    None where they are not finished, or where anything differs that their keys depend on.
    ``ladder`` is that of a plan.
    """
    if device not in _DEVICES:
        return None
    try:
        record = read_json(_path(store, requests, ladder))
        cells = [Known(**cell) for cell in record["cells"]]
        if not all(_is_settled(store, cell.key) for cell in cells) or _has_failed(store):
            return None
        inputs = _inputs(requests, store, data, record["inputs"]["checkpoints"])
        return cells if inputs and inputs == record["inputs"] else None
    except _MALFORMED:
        return None


def known_plan(
    plan: Plan, *, store: Store, data: Path, device: str = "auto"
) -> list[CellStatus] | None:
    """Return the status of a plan that was finished before, in the order of its work.

    None where it is not finished, or where anything differs that its keys depend on; and for
    a ladder by yield, whose pilot is told each time.
    """
    if plan.ladder == "yield":
        return None
    try:
        found = known(
            plan.requests(), store=store, data=data, device=device, ladder=plan.ladder
        )
        return None if found is None else [_status(store, cell, plan.n) for cell in found]
    except BenchError:  # the usual way says it with all other faults
        return None


def _status(store: Store, cell: Known, n: int) -> CellStatus:
    if store.outcomes(cell.key).is_file():
        return CellStatus(cell.title, CellState.DONE, n, n, key=cell.key)
    reason = str(read_json(store.cell(cell.key) / "skipped.json").get("reason"))
    return CellStatus(cell.title, CellState.SKIPPED, 0, n, reason, cell.key)


def keep_plan(
    keys: Sequence[str], titles: Sequence[str], plan: Plan, *, store: Store, data: Path
) -> None:
    """Remember a plan by the keys and titles of its cells, where all of them are finished."""
    if plan.ladder == "yield":
        return
    cells = list(map(Known, keys, titles))
    keep(cells, plan.requests(), store=store, data=data, ladder=plan.ladder)


def keep(
    cells: Sequence[Known],
    requests: Sequence[Request],
    *,
    store: Store,
    data: Path,
    ladder: object = None,
) -> None:
    """Remember the cells that answer requests, where all of them are finished.

    Nothing is kept where something of the user takes part, or where nothing can be written.
    """
    try:
        used = _checkpoints(store, [cell.key for cell in cells])
        inputs = None if used is None else _inputs(requests, store, data, used)
        if inputs and all(_is_settled(store, cell.key) for cell in cells):
            path = _path(store, requests, ladder)
            write_json(path, {"inputs": inputs, "cells": [asdict(cell) for cell in cells]})
    except _MALFORMED:
        pass


def _path(store: Store, requests: Iterable[Request], ladder: object) -> Path:
    asked = {"requests": [_plain(request) for request in requests], "ladder": ladder}
    return store.cache / "requests" / f"{digest_of(asked)}.json"


def _plain(request: Request) -> dict[str, Any]:
    content = {one.name: getattr(request, one.name) for one in fields(request)}
    return {**content, "eps": format_eps(request.eps)}


def _is_settled(store: Store, key: str) -> bool:
    """Whether nothing is left to do for a cell, not even to tidy up."""
    folder = store.cell(key)
    done = (folder / "outcomes.parquet").is_file() and not (folder / "shards").exists()
    done &= not (folder / "failed.json").exists()
    return (folder / "cell.json").is_file() and (done or (folder / "skipped.json").is_file())


def _has_failed(store: Store) -> bool:
    """Whether a cell failed, whose row the usual way might drop."""
    return any(os.path.exists(f"{folder}/failed.json") for folder in store.cells())


def _checkpoints(store: Store, keys: Iterable[str]) -> list[str] | None:
    """List the checkpoints that cells were made with; None where weights are from elsewhere."""
    found: set[str] = set()
    there: dict[str, list[str]] = {}
    for path in store.checkpoints():
        names = [one.relative_to(store.root) for one in (path, path.with_suffix(".json"))]
        there.setdefault(_sha256(path), []).extend(name.as_posix() for name in names)
    for key in keys:
        cell = read_json(store.cell(key) / "cell.json")
        for part in (cell[name] for name in ("classifier", "defense", "attack")):
            if part.get("source") or part.get("beside"):
                return None
            if part["checkpoint"] is not None:
                if part["checkpoint"] not in there:
                    return None
                found.update(there[part["checkpoint"]])
    return sorted(found)


def _inputs(
    requests: Iterable[Request], store: Store, data: Path, checkpoints: Iterable[str]
) -> dict[str, Any] | None:
    """Collect all that keys depend on, by content; None where it cannot be known."""
    names: set[tuple[Kind, str]] = set()
    for one in requests:
        names |= {("attacks", one.attack), ("defenses", one.defense)}
        names |= {("classifiers", one.classifier)}
    if not all(is_ours(kind, name) for kind, name in names):
        return None
    files: list[Path] = []
    for dataset in {request.dataset for request in requests}:
        dataset_info(dataset)  # raises where a plugin claims its name
        own = files_of(dataset, root=data)
        if own is None:
            return None
        files += own
    try:
        return {
            "bench": digest_of_shipped(),
            "python": python_version(),
            "libraries": {name: version(name) for name in _LIBRARIES},
            "data": {path.relative_to(data).as_posix(): _sha256(path) for path in files},
            "checkpoints": {name: _sha256(store.root / name) for name in checkpoints},
        }
    except (OSError, PackageNotFoundError):
        return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

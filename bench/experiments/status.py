"""How far a plan is, read from the results folder, whichever process works on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from bench.core.threat import Access
from bench.errors import BenchError
from bench.experiments.attack_order import cheaper_attacks
from bench.experiments.matrix import preview, title
from bench.experiments.pilot import by_yield, pilot_of
from bench.experiments.plan import Plan
from bench.experiments.prepare import Plugins, outline
from bench.experiments.states import CellState, CellStatus, at_work, counted
from bench.results.cell import Cell, digest_of
from bench.results.cell_row import is_void
from bench.results.files import read_json
from bench.results.locks import is_held
from bench.results.progress import Progress
from bench.results.store import Store
from bench.results.workspace import Workspace

_SETTLED = (CellState.DONE, CellState.FAILED, CellState.SKIPPED)


class PlanStatus:
    """The cells of a plan that was resolved to pairs; a key once known is kept."""

    def __init__(self, plan: Plan, pairs: Sequence[Plugins], workspace: Workspace) -> None:
        self._pairs, self._workspace = pairs, workspace
        self._plan, self._order = plan, list(range(len(pairs)))
        self._cheaper = cheaper_attacks(plan, pairs)
        self._cells: dict[int, Cell] = {}
        self._tried = None
        if plan.ladder == "yield":
            self._pilot = pilot_of(plan, pairs)
            self._tried = PlanStatus(self._pilot.plan, self._pilot.pairs, workspace)

    def pilot(self) -> list[CellStatus]:
        """Read the status of the cells of a pilot; none where the plan has none."""
        return self._tried.read() if self._tried else []

    def order(self) -> list[int] | None:
        """Return the places of the pairs in the order of work; None before the pilot's end."""
        if self._tried:
            tried = self.pilot()
            if any(one.state not in _SETTLED for one in tried):
                return None
            found = self._pilot.trials([one.key for one in tried], self._workspace.store)
            order = by_yield(self._pairs, found)
            if order != self._order:
                self._order, self._cells = order, {}
                self._cheaper = cheaper_attacks(self._plan, self._pairs, order)
        return self._order

    def read(self) -> list[CellStatus]:
        """Read the status of every cell from the folder, in the order of the plan."""
        order = self.order()
        found: dict[int, CellStatus] = {}
        for number in self._order:
            found[number] = self._one(number, found, known=order is not None)
        return [found[number] for number in range(len(self._pairs))]

    def _one(self, number: int, before: Mapping[int, CellStatus], *, known: bool) -> CellStatus:
        plugins, store = self._pairs[number], self._workspace.store
        whole = CellStatus(title(plugins), CellState.OPEN, 0, plugins.request.n)
        early = digest_of(plugins.asked())
        # Whether a defense in a file has a gradient is known once it was tried.
        if skipped := plugins.impossible or _reason(store, early, "skipped"):
            return replace(whole, state=CellState.SKIPPED, note=skipped, key=early)
        if reason := _reason(store, early, "failed"):
            return replace(whole, state=CellState.FAILED, note=reason, key=early)
        if not known and plugins.threat.access is not Access.TRANSFER:
            return replace(whole, note="waits for the pilot")
        cheaper = [before[other] for other in self._cheaper[number]]
        if any(other.state not in _SETTLED for other in cheaper):
            return replace(whole, note="waits for the cheaper attacks")
        cell = self._cells.get(number)
        if cell is None:
            done = [other for other in cheaper if other.state is CellState.DONE]
            keys = [other.key for other in done if other.key]
            after = tuple(key for key in keys if not is_void(store, key))
            try:
                cell, untrained = outline(plugins, self._workspace, after=after)
            except BenchError as error:
                return replace(whole, note=str(error))
            if untrained:
                return replace(whole, note=f"to be trained first: {', '.join(untrained)}")
            if len(keys) == len(cheaper):  # one that failed may yet be measured
                self._cells[number] = cell
        return _of_cell(cell, whole, store)


def _of_cell(cell: Cell, whole: CellStatus, store: Store) -> CellStatus:
    key = cell.key()
    found = replace(whole, key=key)
    if store.done(cell):
        return replace(found, state=CellState.DONE, done=cell.n)
    left = store.missing(cell)
    found = replace(found, done=cell.n - sum(stop - start for start, stop in left))
    if reason := _reason(store, key, "failed"):
        return replace(found, state=CellState.FAILED, note=reason)
    proposals = cell.proposal_key()
    busy = sum(is_held(store.claim_on_shard(proposals, *shard)) for shard in left)
    if busy:
        return replace(
            found, state=CellState.RUNNING, note=f"{counted({'shard': busy})} at work"
        )
    return found


def _reason(store: Store, key: str, state: str) -> str:
    path = store.cell(key) / f"{state}.json"
    return str(read_json(path)["reason"]) if path.is_file() else ""


def previews(
    plan: Plan, pairs: Sequence[Plugins], workspace: Workspace
) -> list[tuple[Plugins, dict[str, Any]]]:
    """Describe the cells of a plan in the order of work, its pilot first, and run nothing."""
    listed = []
    if plan.ladder == "yield":
        pilot = pilot_of(plan, pairs)
        listed = previews(pilot.plan, pilot.pairs, workspace)
    order = PlanStatus(plan, pairs, workspace).order()
    cheaper = cheaper_attacks(plan, pairs, order)
    keys: dict[int, str] = {}
    for number in range(len(pairs)) if order is None else order:
        before = [keys[other] for other in cheaper[number] if other in keys]
        after = tuple(key for key in before if not is_void(workspace.store, key))
        early = digest_of(pairs[number].asked())
        if skipped := _reason(workspace.store, early, "skipped"):  # known once it was tried
            listed.append((pairs[number], {"impossible": skipped}))
            continue
        outline = preview(pairs[number].request, workspace, after=after)
        waits = order is None and pairs[number].threat.access is not Access.TRANSFER
        if waits and "key" in outline:
            outline = {"waits for": "the pilot", **_undecided(outline)}
        if "key" in outline:
            keys[number] = outline["key"]
        listed.append((pairs[number], outline))
    return listed


def _undecided(outline: Mapping[str, Any]) -> dict[str, Any]:
    return {name: outline[name] for name in outline if name not in ("cell", "key", "done")}


def progress(found: Iterable[CellStatus], store: Store) -> Progress:
    """Sum the status of the cells up to one figure for all who work on them."""
    cells = [one for one in found if one.state is not CellState.SKIPPED]
    settled = sum(one.state in _SETTLED for one in cells)
    busy = counted(at_work(store))
    note = f"{settled} of {len(cells)} cells" + (f", {busy}" if busy else "")
    done = sum(one.total if one.state in _SETTLED else one.done for one in cells)
    return Progress(
        "all workers", done, sum(one.total for one in cells), note=note, unit="images"
    )

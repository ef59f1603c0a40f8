"""How far a plan is, read from the results folder, whichever process works on it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from bench.errors import BenchError
from bench.experiments.attack_order import cheaper_attacks
from bench.experiments.matrix import title
from bench.experiments.plan import Plan
from bench.experiments.prepare import Plugins, outline
from bench.experiments.states import CellState, CellStatus, at_work, counted
from bench.results.cell import Cell, digest_of
from bench.results.locks import is_held
from bench.results.progress import Progress
from bench.results.store import Store, read_json
from bench.results.workspace import Workspace

_SETTLED = (CellState.DONE, CellState.FAILED, CellState.SKIPPED)


class PlanStatus:
    """The cells of a plan that was resolved to pairs; a key once known is kept."""

    def __init__(self, plan: Plan, pairs: Sequence[Plugins], workspace: Workspace) -> None:
        self._pairs, self._workspace = pairs, workspace
        self._cheaper = cheaper_attacks(plan, pairs)
        self._cells: dict[int, Cell] = {}

    def read(self) -> list[CellStatus]:
        """Read the status of every cell from the folder, in the order of the plan."""
        found: list[CellStatus] = []
        for number in range(len(self._pairs)):
            found.append(self._one(number, found))
        return found

    def _one(self, number: int, before: list[CellStatus]) -> CellStatus:
        plugins, store = self._pairs[number], self._workspace.store
        whole = CellStatus(title(plugins), CellState.OPEN, 0, plugins.request.n)
        early = digest_of(plugins.asked())
        # Whether a defense in a file has a gradient is known once it was tried.
        if skipped := plugins.impossible or _reason(store, early, "skipped"):
            return replace(whole, state=CellState.SKIPPED, note=skipped, key=early)
        if reason := _reason(store, early, "failed"):
            return replace(whole, state=CellState.FAILED, note=reason, key=early)
        cheaper = [before[other] for other in self._cheaper[number]]
        if any(other.state not in _SETTLED for other in cheaper):
            return replace(whole, note="waits for the cheaper attacks")
        cell = self._cells.get(number)
        if cell is None:
            done = [other for other in cheaper if other.state is CellState.DONE]
            after = tuple(other.key for other in done if other.key)
            try:
                cell, untrained = outline(plugins, self._workspace, after=after)
            except BenchError as error:
                return replace(whole, note=str(error))
            if untrained:
                return replace(whole, note=f"to be trained first: {', '.join(untrained)}")
            if len(after) == len(cheaper):  # one that failed may yet be measured
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

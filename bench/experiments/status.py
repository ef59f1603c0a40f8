"""How far a plan is, read from the results folder, whoever works on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from bench.errors import BenchError
from bench.experiments.attack_order import rungs_below
from bench.experiments.matrix import pending, title
from bench.experiments.plan import Plan
from bench.experiments.prepare import Plugins, outline
from bench.progress import Progress
from bench.results.cell import Cell, digest_of
from bench.results.locks import is_held
from bench.results.store import Store, read_json
from bench.results.workspace import Workspace


class State(StrEnum):
    """What has become of a cell."""

    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"
    RUNNING = "running"
    OPEN = "open"


_SETTLED = (State.DONE, State.FAILED, State.SKIPPED)


@dataclass(frozen=True)
class Standing:
    """A cell of a plan: images finished of all, and the key where it is final."""

    title: str
    state: State
    done: int
    total: int
    note: str = ""
    key: str | None = None


class Standings:
    """The cells of a plan; what is settled once is not looked up again."""

    def __init__(
        self, pairs: Sequence[Plugins], below: Sequence[Sequence[int]], workspace: Workspace
    ) -> None:
        self._pairs, self._below, self._space = pairs, below, workspace
        self._cells: dict[int, Cell] = {}

    @classmethod
    def of(cls, plan: Plan, pairs: Sequence[Plugins], workspace: Workspace) -> Standings:
        """Open the cells of a plan that was resolved to pairs."""
        return cls(pairs, rungs_below(pairs) if plan.ladder else [[]] * len(pairs), workspace)

    def look(self) -> list[Standing]:
        """Look at every cell of the plan, in its order."""
        found: list[Standing] = []
        for number in range(len(self._pairs)):
            found.append(self._one(number, found))
        return found

    def _one(self, number: int, before: list[Standing]) -> Standing:
        plugins, store = self._pairs[number], self._space.store
        whole = Standing(title(plugins), State.OPEN, 0, plugins.request.n)
        early = digest_of(pending(plugins))
        if plugins.impossible:
            return replace(whole, state=State.SKIPPED, note=plugins.impossible, key=early)
        if reason := _reason(store, early):
            return replace(whole, state=State.FAILED, note=reason, key=early)
        rungs = [before[rung] for rung in self._below[number]]
        if any(rung.state not in _SETTLED for rung in rungs):
            return replace(whole, note="waits for the cheaper attacks")
        cell = self._cells.get(number)
        if cell is None:
            try:
                cell, untrained = outline(plugins, self._space)
            except BenchError as error:
                return replace(whole, note=str(error))
            if untrained:
                return replace(whole, note=f"to be trained first: {', '.join(untrained)}")
            after = tuple(rung.key for rung in rungs if rung.key and rung.state is State.DONE)
            cell = replace(cell, after=after)
            if len(after) == len(rungs):  # a rung that failed may yet come into it
                self._cells[number] = cell
        return _standing(cell, whole, store)


def _standing(cell: Cell, whole: Standing, store: Store) -> Standing:
    key = cell.key()
    found = replace(whole, key=key)
    if store.done(cell):
        return replace(found, state=State.DONE, done=cell.n)
    left = store.missing(cell)
    found = replace(found, done=cell.n - sum(stop - start for start, stop in left))
    if reason := _reason(store, key):
        return replace(found, state=State.FAILED, note=reason)
    blocks = cell.proposal_key()
    busy = sum(is_held(store.claim_on_block(blocks, *block)) for block in left)
    if busy:
        return replace(found, state=State.RUNNING, note=f"{counted({'block': busy})} at work")
    return found


def _reason(store: Store, key: str) -> str:
    path = store.cell(key) / "failed.json"
    return str(read_json(path)["reason"]) if path.is_file() else ""


def at_work(store: Store) -> Counter[str]:
    """Count what living processes have claimed: trainings, audits and blocks, if any."""
    found: Counter[str] = Counter()
    for path in sorted((store.root / "claims").glob("*")):
        kind = {"train": "training", "audit": "audit"}.get(path.name.split("-")[0], "block")
        found[kind] += is_held(path)
    return found


def counted(counts: Mapping[str, int]) -> str:
    """Write counts in words, such as '1 training, 2 blocks'."""
    return ", ".join(f"{n} {name}{'s' * (n > 1)}" for name, n in counts.items() if n)


def progress(standings: Iterable[Standing], store: Store) -> Progress:
    """Sum the standings of a plan up to one figure for all who work on it."""
    cells = [one for one in standings if one.state is not State.SKIPPED]
    settled = sum(one.state in _SETTLED for one in cells)
    busy = counted(at_work(store))
    note = f"{settled} of {len(cells)} cells" + (f", {busy}" if busy else "")
    done = sum(one.total if one.state in _SETTLED else one.done for one in cells)
    return Progress("images", done, sum(one.total for one in cells), note=note)

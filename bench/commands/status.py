"""bench status and bench collect: how far a plan is, and its rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.commands.options import DATA, RESULTS, ZOO, AsJson, Data, Results, Zoo, at_home
from bench.commands.shared import exit_on_trouble, open_workspace, print_rows, say
from bench.errors import BenchError, UsageError

if TYPE_CHECKING:
    from bench.experiments.plan import Plan
    from bench.experiments.status import PlanStatus
    from bench.results.workspace import Workspace

PlanFile = Annotated[
    Path, typer.Argument(help="The plan that was given to bench matrix.", callback=at_home)
]


def status(
    plan: PlanFile,
    results: Results = RESULTS,
    data: Data = DATA,
    zoo: Zoo = ZOO,
) -> None:
    """Show how far a plan is: cells done, running, failed and left, in all processes."""
    from bench.executors.slurm import queued
    from bench.experiments.finished import keep_plan, known_plan
    from bench.experiments.plan import read_plan
    from bench.experiments.states import at_work, counted
    from bench.results.store import Store

    content, store = read_plan(plan), Store(results)
    found = known_plan(content, store=store, data=data)
    if found is None:
        cells = _status(content, open_workspace(results, data, zoo, "cpu"))
        found = cells.read()
        keys, titles = [one.key or "" for one in found], [one.title for one in found]
        keep_plan(keys, titles, content, store=store, data=data)
        found = [*cells.pilot(), *found]
    for one in found:
        note = f": {one.note}" if one.note else ""
        say(f"{one.state:8} {one.done:6}/{one.total:<6} {one.title}{note}")
    counts = {state: sum(one.state == state for one in found) for state in _states()}
    say(", ".join(f"{count} {state}" for state, count in counts.items() if count))
    say(f"claimed in this folder: {counted(at_work(store)) or 'nothing'}")
    queue = queued(store)
    for job, states in (queue or {}).items():
        said = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        say(f"job {job}: {said or 'ended'}; its logs are in {store.jobs}")


def collect(
    plan: PlanFile,
    results: Results = RESULTS,
    data: Data = DATA,
    zoo: Zoo = ZOO,
    as_json: AsJson = False,
) -> None:
    """Write runs.csv and print the rows of a plan that other processes measured."""
    from bench.experiments.plan import read_plan

    content = read_plan(plan)
    if not results.is_dir():
        raise UsageError(f"there is no folder {results}. Name that of the results: --results.")
    workspace = open_workspace(results, data, zoo, "cpu")
    from bench.experiments.states import CellState
    from bench.results.rows import write_runs

    found = _status(content, workspace).read()
    keys = {one.key for one in found}
    rows = [row for row in write_runs(workspace.store) if row["key"] in keys]
    print_rows(rows, as_json=as_json)
    left = sum(one.state in (CellState.OPEN, CellState.RUNNING) for one in found)
    if left:
        raise BenchError(
            f"{left} of {len(found)} cells are not finished. `bench status {plan}` shows what "
            "they wait for; `bench matrix` with the same plan measures what is left."
        )
    exit_on_trouble(rows)


def _status(plan: Plan, workspace: Workspace) -> PlanStatus:
    from bench.experiments.matrix import ordered
    from bench.experiments.status import PlanStatus

    return PlanStatus(plan, ordered(plan), workspace)


def _states() -> list[str]:
    from bench.experiments.states import CellState

    return list(CellState)

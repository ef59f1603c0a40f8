"""--executor: several workers on the plans of one command."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from bench.commands.shared import complain, say, watch
from bench.errors import StoreError, UsageError, unknown_name

if TYPE_CHECKING:
    from bench.experiments.plan import Plan
    from bench.experiments.prepare import Plugins
    from bench.experiments.status import PlanStatus
    from bench.results.progress import Progress
    from bench.results.workspace import Workspace

EXECUTORS = ("local", "slurm")
Executor = Annotated[
    str | None,
    typer.Option(
        help="local: processes on this machine; slurm: an array of jobs. Rows are the same.",
        show_default="only this process",
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs", min=1, help="Workers.", show_default="local: one per GPU, or per CPU core"
    ),
]
Slurm = Annotated[
    list[str],
    typer.Option(
        "--slurm", help="An option of sbatch, such as partition=gpu; may be repeated."
    ),
]


def check(executor: str | None, jobs: int | None, slurm: list[str]) -> None:
    """Refuse options that cannot be combined; raises UsageError."""
    if executor is None:
        if jobs is not None:
            raise UsageError("--jobs needs an executor: add --executor local or slurm.")
    elif executor not in EXECUTORS:
        raise unknown_name("executor", executor, EXECUTORS)
    if slurm and executor != "slurm":
        raise UsageError("--slurm works only with --executor slurm.")
    if executor == "slurm":
        if jobs is None:
            raise UsageError("--executor slurm needs --jobs, the number of workers.")
        from bench.executors.slurm import check_ready, parse_options

        parse_options(slurm)
        check_ready()


def spread(
    plans: Sequence[tuple[Plan, list[Plugins]]],
    workspace: Workspace,
    *,
    executor: str,
    jobs: int | None,
    slurm: list[str],
    device: str,
    quiet: bool,
) -> bool:
    """Let workers measure plans; return whether they are finished (False for submitted jobs).

    No worker is started for cells that are done. Raises BenchError where the folder cannot be
    shared or all workers die.
    """
    from bench.executors.task import WorkerTask
    from bench.experiments.status import PlanStatus
    from bench.results.locks import works_in

    status = [PlanStatus(plan, pairs, workspace) for plan, pairs in plans]
    if not _is_left(plans, status):
        return True
    if not works_in(workspace.store.root):
        raise StoreError(
            f"the file system of {workspace.store.root} has no locks (flock), which workers "
            "need to share work. Choose another folder with --results, mount it with locks, or "
            "run without --executor."
        )
    folders = [workspace.store.root, workspace.data, workspace.zoo]
    results, data, zoo = (str(folder.resolve()) for folder in folders)
    contents = tuple(_as_json(plan) for plan, _ in plans)
    task = WorkerTask(contents, results, data, zoo, device, workspace.run, tuple(sys.argv))
    if executor == "slurm":
        from bench.executors.slurm import parse_options, submit

        assert jobs is not None  # `check` refuses it
        job = submit(task, jobs=jobs, options=parse_options(slurm), store=workspace.store)
        say(f"submitted: job {job}, {jobs} workers. See `bench status`, then `bench collect`.")
        return False
    import torch

    from bench.executors.local import run_local, slots

    where = slots(device, jobs, gpus=torch.cuda.device_count())
    if not quiet:
        say(f"{len(where)} workers")
    look = partial(_progress, status, workspace)
    watch(run_local(task, where, look=look, complain=complain), quiet=quiet)
    return True


def _as_json(plan: Plan) -> dict[str, object]:
    from bench.experiments.plan import Plan
    from bench.plugins.names import absolute

    # A job may start in another folder.
    plan = plan.renamed(absolute)
    return plan.model_dump(mode="json", include=set(Plan.model_fields))


def _is_left(plans: Sequence[tuple[Plan, list[Plugins]]], status: Sequence[PlanStatus]) -> bool:
    """Whether workers may find anything to do; an audit counts as work.

    This downloads missing data: nodes of a cluster may be offline.
    """
    from bench.experiments.states import CellState

    states = [one.state for plan in status for one in plan.read()]
    left = any(state not in (CellState.DONE, CellState.SKIPPED) for state in states)
    return left or any(plan.audit for plan, _ in plans)


def _progress(status: Sequence[PlanStatus], workspace: Workspace) -> Progress:
    from bench.experiments.status import progress

    cells = (one for plan in status for one in [*plan.pilot(), *plan.read()])
    return progress(cells, workspace.store)

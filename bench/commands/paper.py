"""bench paper: a paper's tables, measured where they are missing or rebuilt from the cells."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.commands.executor_option import Executor, Jobs, Slurm, check, spread
from bench.commands.options import (
    DATA,
    RESULTS,
    ZOO,
    Data,
    Device,
    DryRun,
    Results,
    Zoo,
    at_home,
    to_write,
)
from bench.commands.shared import complain, open_workspace, say, tell_trouble
from bench.errors import BenchError, PlanError, UsageError

if TYPE_CHECKING:
    from bench.experiments.prepare import Plugins
    from bench.paper.spec import TableFile
    from bench.results.workspace import Workspace

_FILES = Path("plans/paper")


def paper(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Table files.",
            show_default="all of plans/paper/*.yaml",
            callback=lambda files: files and [at_home(file) for file in files],
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the tables.",
            show_default="paper in the results folder",
            callback=to_write,
        ),
    ] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Write the tables only from stored cells.")
    ] = False,
    device: Device = "auto",
    results: Results = RESULTS,
    data: Data = DATA,
    zoo: Zoo = ZOO,
    executor: Executor = None,
    jobs: Jobs = None,
    slurm: Slurm = [],
    dry_run: DryRun = False,
) -> None:
    """Measure what the tables of a paper lack and write them as CSV, Markdown and LaTeX."""
    folder = results / "paper" if output is None else output
    if rebuild:
        _rebuild(files or [], folder, results)
        return
    check(executor, jobs, slurm)
    from bench.paper.spec import table_files

    paths = table_files(files or [], _FILES)
    tables = _read(paths)
    from bench.commands.shared import list_cells

    workspace = open_workspace(results, data, zoo, device)
    pairs = _resolved(paths, tables)
    whole = True
    if dry_run:
        for path, file, of_file in zip(paths, tables, pairs, strict=True):
            say(f"{path.name}: {file.head.title}")
            for number, (run, of_run) in enumerate(zip(file.runs, of_file, strict=True), 1):
                try:
                    list_cells(run, of_run, workspace, as_json=False)
                except BenchError as error:  # the other runs may be available
                    complain(f"{path.name}, run {number}: {error}")
                    whole = False
        if not whole:
            raise typer.Exit(1)
        return
    workspace.store.probe()
    plans = [
        run
        for file, of_file in zip(tables, pairs, strict=True)
        for run in zip(file.runs, of_file, strict=True)
    ]
    if executor and not spread(
        plans, workspace, executor=executor, jobs=jobs, slurm=slurm, device=device, quiet=False
    ):
        return
    for path, file, of_file in zip(paths, tables, pairs, strict=True):
        say(f"{path.name}: {file.head.title}")
        whole &= _make(path, file, of_file, folder, workspace, quiet=executor is not None)
    if not whole:
        raise typer.Exit(1)


def _read(paths: list[Path]) -> list[TableFile]:
    """Read all table files before anything runs; raises PlanError, all faults."""
    from bench.experiments.plan_faults import all_faults
    from bench.paper.spec import read_table

    tables: list[TableFile] = []
    faults: list[str] = []
    for path in paths:
        try:
            tables.append(read_table(path))
        except PlanError as error:
            faults += error.faults
    if faults:
        raise all_faults(faults)
    return tables


def _resolved(paths: list[Path], tables: list[TableFile]) -> list[list[list[Plugins]]]:
    """Resolve every run of every table before anything runs; raises PlanError, all faults."""
    from bench.experiments.matrix import ordered
    from bench.experiments.plan_faults import all_faults
    from bench.plugins.catalogue import parameters
    from bench.results.settings import lookup

    found: list[list[list[Plugins]]] = []
    faults: list[str] = []
    absent = object()
    for path, file in zip(paths, tables, strict=True):
        found.append([])
        for run in file.runs:
            try:
                found[-1].append(ordered(run))
            except PlanError as error:
                faults += error.faults
        known = [parameters(plugins.defense) for run in found[-1] for plugins in run]
        for key, swept in (("rows", file.head.rows), ("columns", file.head.columns)):
            if swept is None or not known:
                continue
            if all(lookup(params, swept, absent) is absent for params in known):
                faults.append(f"{path.name}: {key}: no defense has a parameter '{swept}'.")
    if faults:
        raise all_faults(faults)
    return found


def _make(
    path: Path,
    file: TableFile,
    pairs: list[list[Plugins]],
    folder: Path,
    workspace: Workspace,
    *,
    quiet: bool,
) -> bool:
    """Measure one table's cells and write it; say whether all its rows have their numbers."""
    from bench.commands.shared import measure
    from bench.paper.cells import command_of
    from bench.paper.write import earlier, write_table
    from bench.results.rows import write_runs

    sidecar = folder / f"{path.stem}.json"
    before = earlier(sidecar, workspace.store)
    cells = []
    try:
        for run, of_run in zip(file.runs, pairs, strict=True):
            keys = measure(run, of_run, workspace, quiet=quiet)
            cells.append(_answers(of_run, keys, before, workspace))
    finally:
        write_runs(workspace.store)
    named = path.name if path.is_absolute() else str(path)  # tables are shared
    frame = write_table(sidecar, file, cells, workspace.store, command_of([named]))
    say(f"wrote {sidecar.with_suffix('')}.csv, .md, .tex and .json")
    return _tell(frame)


def _answers(
    pairs: list[Plugins], keys: list[str], before: dict[str, str], workspace: Workspace
) -> list[str]:
    """List the keys of the cells that answer what was asked.

    What cannot be measured here, such as on a data set that this machine lacks, is answered by
    the cell that answered it when the table was last written, if that cell is still there.
    """
    from bench.experiments.matrix import title
    from bench.results.cell import digest_of

    found = []
    for plugins, key in zip(pairs, keys, strict=True):
        kept = before.get(digest_of(plugins.asked()))
        if kept is not None and not workspace.store.outcomes(key).is_file():
            complain(f"{title(plugins)}: the table keeps cell {kept}, measured before.")
            key = kept
        found.append(key)
    return found


def _rebuild(files: list[Path], folder: Path, results: Path) -> None:
    from bench.paper.write import rebuild
    from bench.results.store import Store

    sidecars = [folder / f"{path.stem}.json" for path in files] or sorted(folder.glob("*.json"))
    missing = [str(path) for path in sidecars if not path.is_file()]
    if missing or not sidecars:
        raise UsageError(
            f"there is nothing to rebuild in {folder}: {', '.join(missing) or '*.json'} is not "
            "there. `bench paper FILE` without --rebuild measures a table and writes it."
        )
    whole = True
    for path in sidecars:
        frame = rebuild(path, Store(results))
        say(f"wrote {path.with_suffix('')}.csv, .md and .tex")
        whole &= _tell(frame)
    if not whole:
        raise typer.Exit(1)


def _tell(frame: Any) -> bool:
    """Name rows without a number on stderr; say whether there is none."""
    rows = [row for row in frame.to_dict("records") if row["state"] != "done"]
    tell_trouble(rows)
    return not rows

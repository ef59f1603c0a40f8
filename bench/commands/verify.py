"""bench verify: recompute a results folder, or check a deposit."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.commands.options import DATA, RESULTS, ZOO, AsJson, Data, Device, Zoo, at_home
from bench.commands.shared import open_workspace, say, watch
from bench.commands.verify_deposit import verify_deposit
from bench.errors import UsageError, near_files

if TYPE_CHECKING:
    from bench.verification.recompute import CheckedCell, Report


def verify(
    results: Annotated[
        Path,
        typer.Argument(
            help="Results folder, or a deposit.", envvar="BENCH_RESULTS", callback=at_home
        ),
    ] = RESULTS,
    votes: Annotated[
        bool, typer.Option("--votes", help="Judge every stored image again, too.")
    ] = False,
    blind: Annotated[
        bool,
        typer.Option("--blind", help="Vote again in a process that sees tensors only, too."),
    ] = False,
    sample: Annotated[
        int | None,
        typer.Option(help="Images of a deposit that are judged again.", show_default="50"),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Draws the same images again.", show_default="others each time"),
    ] = None,
    checkpoints: Annotated[
        Path,
        typer.Option(
            help="Results folder whose checkpoints a deposit is judged with.",
            envvar="BENCH_RESULTS",
            callback=at_home,
        ),
    ] = RESULTS,
    device: Device = "auto",
    data: Data = DATA,
    zoo: Zoo = ZOO,
    as_json: AsJson = False,
) -> None:
    """Recompute what a results folder or a deposit says; exit code 1 if wrong."""
    import json

    if results.is_file():
        if votes or blind:
            raise UsageError(
                "--votes and --blind belong to a results folder: of a deposit, --sample says "
                "how many images are judged again."
            )
        place = open_workspace(checkpoints, data, zoo, device)
        verify_deposit(results, place, sample=sample, seed=seed, as_json=as_json)
        return
    if results.suffix == ".zip" and not results.exists():
        raise UsageError(f"there is no file {results}. {near_files(results)}")
    if sample is not None or seed is not None:
        raise UsageError(
            f"--sample and --seed belong to a deposit, and {results} is no file. Judge a "
            "results folder again with --votes."
        )

    from bench.results.certificates import folder_of
    from bench.results.store import Store

    if not (Store(results).finished() or folder_of(Store(results)).finished()):
        raise UsageError(
            f"there are no finished cells in {results}. Make some with `bench run`, or name "
            "another folder: bench verify FOLDER."
        )
    from bench.audit.recheck import contradictions
    from bench.verification import recompute as work
    from bench.verification.certificates import problems_of
    from bench.verification.problem import Problem

    report = watch(work.verify(Store(results), data=data), quiet=as_json)
    found = (Problem(True, text) for text in contradictions(Store(results)))
    radii = problems_of(Store(results), data=data)
    report = replace(report, folder=(*report.folder, *found, *radii))
    if votes:
        from bench.verification.redraw import redrawn
        from bench.verification.revote import revote

        workspace = open_workspace(results, data, zoo, device)
        report = watch(revote(report, workspace=workspace), quiet=as_json)
        again = watch(redrawn(workspace=workspace), quiet=as_json)
        report = replace(report, folder=(*report.folder, *again))
    if blind:
        from bench.verification.blind import blind as vote_blindly

        workspace = open_workspace(results, data, zoo, device)
        report = watch(vote_blindly(report, workspace=workspace), quiet=as_json)
    if as_json:
        say(json.dumps({**asdict(report), **_counts(report)}, indent=2))
    else:
        _print(report, results)
    if report.contradicted:
        raise typer.Exit(1)


def _print(report: Report, results: Path) -> None:
    for cell in report.cells:
        say(line(cell))
    for finding in report.folder:
        say(f"{'WRONG' if finding.wrong else 'NOT CHECKED'} {finding.text}")
    counts = _counts(report)
    say(
        f"{counts['finished']} finished cells in {results}: {counts['ok']} ok, "
        f"{counts['not_checked']} not checked in full, {counts['wrong']} wrong, "
        f"{counts['void']} void; {sum(f.wrong for f in report.folder)} wrong in runs.csv, "
        "checkpoints, audits and certificates"
    )
    if counts["without_images"]:
        say(
            f"images of {counts['without_images']} of {counts['finished']} cells are not all "
            "there (git does not track them): their distances and legality are not checked"
        )


def line(cell: CheckedCell) -> str:
    """Say in one line what was found of a cell."""
    said = [f"WRONG {text}" for text in cell.wrong]
    said += [f"NOT CHECKED {text}" for text in cell.unchecked]
    void = f" (void: {cell.void})" if cell.void else ""
    return f"{cell.key} {cell.title}{void}: {'; '.join(said) or 'ok'}"


def _counts(report: Report) -> dict[str, int]:
    cells = report.cells
    wrong = sum(bool(cell.wrong) for cell in cells)
    unchecked = sum(bool(cell.unchecked) and not cell.wrong for cell in cells)
    return {
        "finished": len(cells),
        "ok": len(cells) - wrong - unchecked,
        "not_checked": unchecked,
        "wrong": wrong,
        "void": sum(bool(cell.void) for cell in cells),
        "without_images": sum(not cell.images for cell in cells),
    }

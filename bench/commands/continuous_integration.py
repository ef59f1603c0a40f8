"""--fail-below and --junit: rows as a verdict for continuous integration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.commands.options import to_write
from bench.commands.shared import complain, exit_on_trouble
from bench.errors import UsageError
from bench.results.bound import parse_percent, shortfall

if TYPE_CHECKING:
    from bench.results.rows import Row

BELOW = 3  # the exit code

FailBelow = Annotated[
    float | None,
    typer.Option(
        "--fail-below",
        parser=parse_percent,
        metavar="PERCENT",
        help=f"Exit with {BELOW} where a robust accuracy, as printed, is below this.",
    ),
]
Junit = Annotated[
    Path | None,
    typer.Option("--junit", help="Write the cells as JUnit XML to a file.", callback=to_write),
]


def check_measured_here(executor: str | None, bound: float | None, junit: Path | None) -> None:
    """Refuse a verdict on cells that jobs measure later; raises UsageError."""
    if executor == "slurm" and (bound is not None or junit):
        raise UsageError(
            "--executor slurm returns before anything is measured: give --fail-below and "
            "--junit to the same command without --executor, once the jobs have ended."
        )


def write_junit(junit: Path, rows: Sequence[Row], *, plan: Path, bound: float | None) -> None:
    """Write the rows of a plan as JUnit XML; raises StoreError."""
    from bench.results import junit as xml
    from bench.results.output import delivered

    with delivered(junit) as temporary:
        temporary.write_bytes(xml.junit(rows, suite=plan.stem, bound=bound))


def end(rows: Sequence[Row], bound: float | None) -> None:
    """Say what went wrong; exit with 1 or, where some of what was measured is low, with 3."""
    low = None if bound is None else shortfall(rows, bound)
    try:
        exit_on_trouble(rows)
    finally:
        if low:
            complain(f"error: {low}")
    if low:
        raise typer.Exit(BELOW)

"""What the commands share: the workspace, progress, and how they print."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

if TYPE_CHECKING:
    from bench.cell import Request
    from bench.progress import Work
    from bench.workspace import Workspace

Result = TypeVar("Result")


def workspace(results: Path, data: Path, models: Path, device: str) -> Workspace:
    """Open the folders and the device of a command; raises UsageError."""
    from bench.store import Store
    from bench.workspace import Workspace, open_device

    return Workspace(Store(results), data, models, open_device(device))


def opening(request: Request) -> str:
    """Say in one line what a run is about."""
    other = " (choose another: --dataset)" if request.dataset == "digits" else ""
    return (
        f"data set {request.dataset}{other}, first {request.n} images, "
        f"{request.norm.value} {request.eps}"
    )


def watch(work: Work[Result], *, quiet: bool) -> Result:
    """Run work to its end under a progress bar on stderr."""
    from bench.progress import finish

    try:
        if quiet:
            return finish(work)
        from bench.bars import watch

        return watch(work)
    except KeyboardInterrupt:  # Typer would end in silence
        complain("interrupted: what is finished is kept, and the same command goes on there.")
        raise typer.Exit(130) from None


def print_outline(outline: Any, *, as_json: bool) -> None:
    """Print what a dry run found."""
    import json

    if as_json:
        typer.echo(json.dumps(outline, indent=2))
        return
    say("\n".join(_listing(outline, "  ")))


def _listing(content: dict[str, Any], indent: str) -> Iterator[str]:
    """Write nested parameters line by line, in 80 columns."""
    import json
    import textwrap

    for name, value in content.items():
        if isinstance(value, dict) and value:
            yield f"{indent}{name}:"
            yield from _listing(value, indent + "  ")
        else:
            shown = value if isinstance(value, str) else json.dumps(value)
            yield textwrap.fill(
                f"{name}: {shown}", width=80, initial_indent=indent,
                subsequent_indent=indent + "  ",
                break_long_words=False, break_on_hyphens=False,
            )  # fmt: skip


def print_rows(rows: Any, *, as_json: bool) -> None:
    """Print result rows as a table or as JSON."""
    if as_json:
        typer.echo(rows.to_json(orient="records", indent=2))
        return
    from bench.bars import print_table

    print_table(rows)


def exit_on_trouble(rows: Any) -> None:
    """Name rows without a result on stderr and exit with 1 where one failed or is void."""
    for _, row in rows[rows["state"].isin(["failed", "void", "skipped"])].iterrows():
        complain(f"{row['defense']} under {row['attack']}: {row['state']}: {row['note']}")
    if rows["state"].isin(["failed", "void"]).any():
        raise typer.Exit(1)


def say(text: str) -> None:
    """Print a line."""
    typer.echo(text)


def complain(text: str) -> None:
    """Print a line to stderr."""
    typer.echo(text, err=True)

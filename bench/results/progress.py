"""How long work reports: it is a generator of Progress that returns its result."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TypeVar

Result = TypeVar("Result")
_LOG_EVERY_S = 10.0


@dataclass(frozen=True)
class Progress:
    """``done`` of ``total`` pieces of ``what``, with the latest figures and what comes next.

    ``waits``: nothing goes on here until another process has finished its part.
    """

    what: str
    done: int
    total: int
    figures: Mapping[str, float] = field(default_factory=dict)
    note: str = ""
    waits: bool = False


Work = Generator[Progress, None, Result]


def finish(work: Work[Result], show: Callable[[Progress], None] | None = None) -> Result:
    """Run work to its end, in silence or showing how far it is, and return its result."""
    while True:
        try:
            now = next(work)
        except StopIteration as stop:
            result: Result = stop.value
            return result
        if show is not None:
            show(now)


def unless_waiting(work: Work[Result]) -> Work[Result | None]:
    """Run work to its end, or give it up and return None where it has to wait for others."""
    while True:
        try:
            now = next(work)
        except StopIteration as stop:
            result: Result = stop.value
            return result
        if now.waits:
            work.close()
            return None
        yield now


def watch(work: Work[Result]) -> Result:
    """Run work to its end, reporting on stderr, and return its result."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import (
        Progress as Bars,
    )

    console = Console(stderr=True)
    # In a notebook rich draws with ipywidgets, and only warns where they are missing.
    drawn = find_spec("ipywidgets") if console.is_jupyter else console.is_terminal
    if not drawn:
        return _log(work)
    with Bars(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}", markup=False),
        console=console,
    ) as bars:
        tasks: dict[str, TaskID] = {}

        def show(now: Progress) -> None:
            if now.what not in tasks:
                tasks[now.what] = bars.add_task(now.what, total=now.total, figures="")
            bars.update(tasks[now.what], completed=now.done)
            if now.figures or now.note:
                figures = [f"{name} {value:.3g}" for name, value in now.figures.items()]
                bars.update(tasks[now.what], figures="  ".join([*figures, now.note]))

        return finish(work, show)


def _log(work: Work[Result]) -> Result:
    """Report to a log file: a line a stage or note, and one every ten seconds within it."""
    stage, said = ("", "", False), 0.0

    def show(now: Progress) -> None:
        nonlocal stage, said
        here = (now.what, now.note, now.done == now.total)
        if here != stage or time.monotonic() - said > _LOG_EVERY_S:
            figures = "".join(f", {name} {value:.3g}" for name, value in now.figures.items())
            note = f", {now.note}" if now.note else ""
            with suppress(OSError):  # a full disk or a closed terminal ends no work
                sys.stderr.write(f"{now.what}: {now.done}/{now.total}{figures}{note}\n")
            stage, said = here, time.monotonic()

    return finish(work, show)

"""What a person sees on a terminal: progress bars and the result table."""

from __future__ import annotations

import sys
import time
from typing import TypeVar

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from bench.progress import Work
from bench.table import cells_as_text, shown

Result = TypeVar("Result")
_LOG_EVERY_S = 10.0
_SETTINGS_WIDTH = 26  # of one setting, beyond which it may be broken
_SPARE = ("robust_single", "passes", "interval", "attacked")  # the first to go is the first
# Said once where all rows agree.
_TITLE = ("dataset", "norm", "eps", "n", "draws", "audit", "settings")


def watch(work: Work[Result]) -> Result:
    """Run work to its end, reporting on stderr, and return its result."""
    console = Console(stderr=True)
    if not console.is_terminal:
        return _log(work)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
        console=console,
    ) as bars:
        tasks: dict[str, TaskID] = {}
        while True:
            try:
                now = next(work)
            except StopIteration as stop:
                result: Result = stop.value
                return result
            if now.what not in tasks:
                tasks[now.what] = bars.add_task(now.what, total=now.total, figures="")
            bars.update(tasks[now.what], completed=now.done)
            if now.figures or now.note:
                figures = [f"{name} {value:.3g}" for name, value in now.figures.items()]
                bars.update(tasks[now.what], figures="  ".join([*figures, now.note]))


def _log(work: Work[Result]) -> Result:
    """Report to a log file: a line a stage or note, and one every ten seconds within it."""
    stage, said = ("", "", False), 0.0
    while True:
        try:
            now = next(work)
        except StopIteration as stop:
            result: Result = stop.value
            return result
        here = (now.what, now.note, now.done == now.total)
        if here != stage or time.monotonic() - said > _LOG_EVERY_S:
            figures = "".join(f", {name} {value:.3g}" for name, value in now.figures.items())
            note = f", {now.note}" if now.note else ""
            sys.stderr.write(f"{now.what}: {now.done}/{now.total}{figures}{note}\n")
            stage, said = here, time.monotonic()


def print_table(frame: pd.DataFrame) -> None:
    """Print result rows with as many columns as the terminal has room for."""
    page = shown(frame)
    shared = [name for name in _TITLE if name in page and page[name].nunique() == 1]
    title = ", ".join(f"{name} {page[name].iloc[0]}" for name in shared)
    page = page.drop(columns=shared)
    console = Console()
    spare = [name for name in _SPARE if name in page]
    if (page["state"] == "done").all():
        spare.insert(0, "state")
    endless = console.options.update(max_width=1000)
    while spare and (
        Measurement.get(console, endless, _table(page, title)).minimum > console.width
    ):
        page = page.drop(columns=spare.pop(0))
    console.print(_table(page, title))


def _table(page: pd.DataFrame, title: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in page.columns:
        if name == "settings":  # what a user typed may be long: it alone is broken
            words = [len(word) for text in page[name] for word in text.split()]
            table.add_column(
                name, overflow="fold", min_width=min(max(words, default=0), _SETTINGS_WIDTH)
            )
        else:
            table.add_column(name.replace("_", "\n"), no_wrap=True)
    for row in cells_as_text(page):
        table.add_row(*row)
    return table

"""Work that reports, shown on stderr: a line that changes on a terminal, else a log."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, TypeVar

from bench.results.progress import Progress, Work, finish

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType

Result = TypeVar("Result")
_LOG_EVERY_S = 10.0  # between two lines of a log, at least
_LOG_EVERY_SHARE = 0.05  # of the time that a stage has taken: long ones have few lines, too
_QUICK_S = 1.0  # a stage that ends sooner has no line for its end
_LEAST_BAR, _LONGEST_BAR = 8, 40  # columns
_SPARE = 4  # columns for spaces, and for the ^C of an interruption


@dataclass
class Stage:
    """A piece of work as it was last reported; times are in seconds of one clock."""

    now: Progress
    begun: float
    changed: float
    first: int  # done when it began here

    @classmethod
    def begin(cls, now: Progress, at: float) -> Stage:
        """Begin a stage with its first report."""
        return cls(now, at, at, now.done)

    def report(self, now: Progress, at: float) -> None:
        """Take in a later report."""
        if now.done != self.now.done:
            self.changed = at
        self.now = now

    @property
    def ended(self) -> bool:
        """Whether nothing of it is left."""
        return self.now.done >= self.now.total

    def left(self, at: float) -> float | None:
        """Return the seconds that are left by the mean pace; None where nobody knows."""
        done = self.now.done - self.first
        if done <= 0 or self.ended:
            return None
        pace = (self.changed - self.begun) / done
        return max(0.0, pace * (self.now.total - self.now.done) - (at - self.changed))

    def parts(self, at: float) -> list[str]:
        """Write count, figures, note and times."""
        now = self.now
        found = [f"{now.done}/{now.total}{' ' if now.unit else ''}{now.unit}"]
        for name, value in now.figures.items():
            found.append(f"{name} {value if isinstance(value, str) else f'{value:.3g}'}")
        if now.note:
            found.append(now.note)
        elapsed, left = (self.changed if self.ended else at) - self.begun, self.left(at)
        found += [clock(elapsed)] if elapsed >= 1 else []
        return [*found, f"{clock(left)} left"] if left is not None else found

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        """Draw it in one line where it fits, else its name and below what is known."""
        from rich.cells import cell_len
        from rich.padding import Padding
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        what, known = self.now.what, ", ".join(self.parts(time.monotonic()))
        room = options.max_width - cell_len(what) - cell_len(known) - _SPARE
        if room < 0:
            yield Text(what, no_wrap=True, overflow="ellipsis")
            yield Padding(Text(known), (0, 0, 0, 2))
            return
        line = Table.grid(padding=(0, 1, 0, 0))
        cells: list[RenderableType] = [Text(what)]
        if room >= _LEAST_BAR:
            bar = min(room, _LONGEST_BAR)
            cells.append(ProgressBar(max(self.now.total, 1), self.now.done, width=bar))
        line.add_row(*cells, Text(known))
        yield line


def clock(seconds: float) -> str:
    """Write a time as 0:09, 12:30 or 1:05:00."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def watch(work: Work[Result]) -> Result:
    """Run work to its end, reporting on stderr, and return its result."""
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True)
    # In a notebook rich draws with ipywidgets, and only warns where they are missing.
    drawn = find_spec("ipywidgets") if console.is_jupyter else _redraws()
    if not drawn:
        return _log(work)
    stage: Stage | None = None
    with Live(
        console=console, get_renderable=lambda: stage or "", refresh_per_second=4
    ) as live:

        def show(now: Progress) -> None:
            nonlocal stage
            at = time.monotonic()
            if stage and stage.now.what == now.what:
                stage.report(now, at)
                return
            ended, stage = stage, Stage.begin(now, at)
            if ended:
                live.console.print(ended)

        return finish(work, show)


def _redraws() -> bool:
    """Whether stderr is a terminal that can change what it shows."""
    try:
        return sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    except (AttributeError, ValueError):  # closed, or replaced by something else
        return False


def _log(work: Work[Result]) -> Result:
    """Report to a log file: a line where a stage begins, waits or ends, and some within it."""
    stage: Stage | None = None
    said = 0.0

    def show(now: Progress) -> None:
        nonlocal stage, said
        at = time.monotonic()
        if stage is None or stage.now.what != now.what:
            stage, new = Stage.begin(now, at), True
        else:
            new = now.waits != stage.now.waits
            new |= now.done >= now.total and not stage.ended and at - stage.begun > _QUICK_S
            stage.report(now, at)
        if new or at - said > max(_LOG_EVERY_S, _LOG_EVERY_SHARE * (at - stage.begun)):
            said = at
            with suppress(OSError):  # a full disk or a closed terminal ends no work
                sys.stderr.write(f"{now.what}: {', '.join(stage.parts(at))}\n")

    return finish(work, show)

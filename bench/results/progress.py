"""How long work reports: it is a generator of Progress that returns its result."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True)
class Progress:
    """``done`` of ``total`` pieces of ``what``, with the latest figures and what comes next.

    ``waits``: nothing goes on here until another process has finished its part. ``unit``: what
    is counted, such as "images".
    """

    what: str
    done: int
    total: int
    figures: Mapping[str, float | str] = field(default_factory=dict)
    note: str = ""
    waits: bool = False
    unit: str = ""


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

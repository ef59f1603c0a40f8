"""How long work reports: it is a generator of Progress that returns its result."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

Result = TypeVar("Result")


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


def finish(work: Work[Result]) -> Result:
    """Run work to its end in silence and return its result."""
    while True:
        try:
            next(work)
        except StopIteration as stop:
            result: Result = stop.value
            return result


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

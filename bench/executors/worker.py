"""From resolved pairs to finished cells: the loop of every process that works on a plan.

All processes go through the same pairs in the same order and take what is unclaimed. A pair
that needs another process's result is left for the next round: no process waits while there is
other work. Ladders by yield begin when the pilots of all of them are finished.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

from bench.audit import run as audits
from bench.audit.findings import in_words
from bench.errors import BenchError, StoreError
from bench.experiments import matrix
from bench.experiments.attack_order import cheaper_attacks
from bench.experiments.pilot import by_yield, pilot_of, summary
from bench.experiments.plan import Plan
from bench.experiments.prepare import Plugins
from bench.results.cell_row import is_void
from bench.results.progress import Work, unless_waiting
from bench.results.workspace import Workspace

Result = TypeVar("Result")
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 10.0


class Drive(Protocol):
    """Runs work to its end, with or without a progress bar."""

    def __call__(self, work: Work[Result], /) -> Result:
        """Return the result of the work."""


def measure(
    plan: Plan,
    pairs: Sequence[Plugins],
    *,
    workspace: Workspace,
    drive: Drive,
    announce: Callable[[str], None],
    complain: Callable[[str], None],
) -> list[str]:
    """Measure what is missing and return the key of every pair; a failure stops no others."""
    order: Sequence[int] = range(len(pairs))
    if plan.ladder == "yield":
        order = _by_yield(plan, pairs, workspace, drive, announce, complain)
    cheaper = cheaper_attacks(plan, pairs, order)
    place = {number: one for one, number in enumerate(order, 1)}
    keys: dict[int, str] = {}
    announced: set[int] = set()

    def cell(number: int) -> bool:
        if any(before not in keys for before in cheaper[number]):
            return False
        if number not in announced:
            announced.add(number)
            announce(f"[{place[number]}/{len(pairs)}] {matrix.title(pairs[number])}")
        after = tuple(
            keys[before]
            for before in cheaper[number]
            if workspace.store.outcomes(keys[before]).is_file()
            and not is_void(workspace.store, keys[before])  # its images count nowhere
        )
        work = matrix.attempt(pairs[number], workspace=workspace, say=complain, after=after)
        key = drive(unless_waiting(work))
        if key is not None:
            keys[number] = key
        return key is not None

    _rounds(order, cell)
    if plan.audit:
        _audit(pairs, 256 if plan.audit is True else plan.audit, workspace, drive, complain)
    return [keys[number] for number in range(len(pairs))]


def _by_yield(
    plan: Plan,
    pairs: Sequence[Plugins],
    workspace: Workspace,
    drive: Drive,
    announce: Callable[[str], None],
    complain: Callable[[str], None],
) -> list[int]:
    """Measure the pilot of a plan; return the places of its pairs in the order of work."""
    first = pilot_of(plan, pairs)
    keys = measure(
        first.plan,
        first.pairs,
        workspace=workspace,
        drive=drive,
        announce=lambda line: announce(f"pilot {line}"),
        complain=complain,
    )
    found = first.trials(keys, workspace.store)
    for line in summary(pairs, found, plan):
        announce(line)
    for number in sorted(first.of.keys() - found.keys()):
        complain(f"{matrix.title(pairs[number])} has no number in the pilot: it comes last.")
    return by_yield(pairs, found)


def _audit(
    pairs: Sequence[Plugins],
    images: int,
    workspace: Workspace,
    drive: Drive,
    complain: Callable[[str], None],
) -> None:
    """Audit every defense of a plan; one that cannot be audited does not stop the others."""
    requests = audits.audits_of(pairs, images)

    def one(number: int) -> bool:
        name = requests[number].defense
        try:
            report = drive(unless_waiting(audits.audit(requests[number], workspace=workspace)))
        except StoreError:  # nothing more can be stored
            raise
        except (BenchError, SystemExit) as error:
            complain(f"no audit of {name}: {in_words(error)}")
        else:
            if report is None:
                return False
            complain(f"audit of {name}: {report['verdict']}")
        return True

    _rounds(range(len(requests)), one)


def _rounds(order: Iterable[int], piece: Callable[[int], bool]) -> None:
    """Do pieces of work in order, round after round, until each returns that it is done."""
    left, pause = list(order), _FIRST_PAUSE_S
    while True:
        before = len(left)
        left = [number for number in left if not piece(number)]
        if not left:
            return
        pause = min(2 * pause, _LONGEST_PAUSE_S) if len(left) == before else _FIRST_PAUSE_S
        time.sleep(pause)

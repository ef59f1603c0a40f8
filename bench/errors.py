"""Errors that a user can act on: each message says what is wrong and what to do."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

_FILES = 5  # that a message names


class BenchError(Exception):
    """Base of all errors that the command line prints without a traceback."""

    exit_code = 1


class UsageError(BenchError):
    """The request itself is wrong: an unknown name, a bad value, a broken plan."""

    exit_code = 2


class PlanError(UsageError):
    """A plan has faults, all of them told together."""

    def __init__(self, message: str, faults: Iterable[str]) -> None:
        super().__init__(message)
        self.faults = tuple(faults)


class DataError(BenchError):
    """A data set is missing, incomplete or not what its checksum says."""


class CheckpointError(BenchError):
    """A checkpoint is missing, truncated, foreign or does not fit its network."""


class PluginError(BenchError):
    """A plugin cannot be imported, breaks its contract or returns nonsense."""


class StoreError(BenchError):
    """Results cannot be read or written."""


class OldNameWarning(FutureWarning):
    """A name from before a renaming, which still works."""


class AttackWarning(UserWarning):
    """Something an attack wants recorded beside its result, as a flag of the cell."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """Build the error for a name that nothing answers to, with the nearest match."""
    names = sorted(known)
    lower = {known.casefold(): known for known in reversed(names)}  # MNIST is near mnist
    close = difflib.get_close_matches(name.casefold(), lower, n=1, cutoff=0.5)
    near = [lower[one] for one in close]
    meant = f" Did you mean '{near[0]}'?" if near else ""
    return UsageError(
        f"no {kind} is called '{name}'.{meant} Known: {', '.join(names) or 'none'}."
    )


def near_files(path: Path) -> str:
    """Say what lies beside a file that is missing: a like name, or files of its kind."""
    if not path.parent.is_dir():
        return f"There is no folder {path.parent} either. Check the path."
    try:
        names = sorted(os.listdir(path.parent))
    except OSError:
        names = []
    if close := difflib.get_close_matches(path.name, names, n=3, cutoff=0.7):
        return f"Did you mean {' or '.join(close)}?"
    there = [name for name in names if name.endswith(path.suffix)]
    if not there or not path.suffix:
        return "Check the path: it is taken from the current folder."
    more = ", ..." if len(there) > _FILES else ""
    return f"That folder has {', '.join(there[:_FILES])}{more}."


@contextmanager
def no_exit() -> Iterator[None]:
    """Let os._exit raise SystemExit as sys.exit does, which is an error like others.

    A child process that a plugin forks may end as it likes.
    """
    ours, leave = os.getpid(), os._exit

    def refuse(status: int) -> NoReturn:
        if os.getpid() != ours:
            leave(status)
        raise SystemExit(status)

    os._exit = refuse
    try:
        yield
    finally:
        os._exit = leave

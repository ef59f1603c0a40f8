"""One check and what came of it, in words: what was expected, what was found, what to do."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, TypeVar

from bench.core.isolation import isolated
from bench.errors import BenchError

Subject = TypeVar("Subject")
State = Literal["ok", "fails", "not applicable"]
BUILDS = "builds from its defaults"


@dataclass(frozen=True)
class Result:
    """A check by name, its state, and a sentence where that is not 'ok'."""

    check: str
    state: State
    sentence: str = ""


@dataclass(frozen=True)
class Check(Generic[Subject]):
    """A function that raises Fails or NotApplicable; without a ``needed`` one no other runs."""

    name: str
    run: Callable[[Subject], None]
    needed: bool = False


class ContractError(AssertionError):
    """A plugin breaks its contract; all that is wrong, a line for each check."""


class Fails(Exception):  # noqa: N818 - it is what a check does
    """A check does not hold: what was expected, what was found, what to do about it."""

    def __init__(self, expected: str, *, found: str, remedy: str) -> None:
        super().__init__(f"expected {expected}; found {found}. {remedy}")


class NotApplicable(Exception):  # noqa: N818 - it is no error
    """A check says nothing of this plugin, for this reason."""


def outcomes(make: Callable[[], Subject], checks: Sequence[Check[Subject]]) -> Iterator[Result]:
    """Make a plugin's subject and run all checks on it, one after the other."""
    subjects: list[Subject] = []
    built = _outcome(BUILDS, lambda: subjects.append(make()))
    yield built
    failed = built if built.state == "fails" else None
    for check in checks:
        if failed is not None:
            yield Result(check.name, "not applicable", f"not run, since '{failed.check}' fails")
            continue
        result = run(check, subjects[0])
        yield result
        if check.needed and result.state == "fails":
            failed = result


def run(check: Check[Subject], subject: Subject) -> Result:
    """Run one check on a subject."""
    return _outcome(check.name, lambda: check.run(subject))


def required(results: Sequence[Result], label: str) -> list[Result]:
    """Return the results of checks that all hold; raises ContractError where one does not."""
    wrong = [f"{one.check}: {one.sentence}" for one in results if one.state == "fails"]
    if wrong:
        raise ContractError("\n".join([f"{label} breaks its contract:", *wrong]))
    return list(results)


def _outcome(name: str, call: Callable[[], None]) -> Result:
    try:
        with isolated(0):
            call()
    except NotApplicable as reason:
        return Result(name, "not applicable", str(reason))
    except (Fails, BenchError) as error:
        return Result(name, "fails", str(error))
    except (Exception, SystemExit) as error:  # whatever a plugin raises
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}:{last.lineno}"
        return Result(name, "fails", f"{type(error).__name__}: {error} ({where}). Repair it.")
    return Result(name, "ok")

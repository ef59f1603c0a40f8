"""Whether the reports of audits say what their findings say. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bench.audit.findings import Finding, State, Weight, verdict
from bench.errors import StoreError
from bench.results.audits import read_report
from bench.results.cell import subject_of
from bench.results.store import Store


def read_finding(content: dict[str, Any]) -> Finding:
    """Read a finding of a report back."""
    states = {"state": State(content["state"]), "weight": Weight(content["weight"])}
    return Finding(**{**content, **states})


def contradictions(store: Store) -> Iterator[str]:
    """List what is wrong with the audit reports of a results folder.

    The attacks behind a report are cells of a results folder of their own beside it, which
    ``bench verify`` takes as it takes any other.
    """
    for path in store.audits():
        name = f"audit {path.parent.name}"
        try:
            report = read_report(path)
            if subject_of(report["asked"]["cell"]) != path.parent.name:
                yield f"{name} is about another defense or ball than its folder's name says"
            found = verdict(map(read_finding, report["findings"]))
            if found.state != report["state"]:
                yield f"{name} says '{report['state']}', its findings say '{found.state}'"
            elif found.words != report["verdict"]:
                yield f"{name}: its verdict in words is not that of its findings"
        except StoreError as error:
            yield str(error)
        except (KeyError, TypeError, ValueError) as error:
            yield f"{name} is not what bench wrote ({error})"

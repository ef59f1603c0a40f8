"""What audits say, read back from their reports; a damaged one says nothing. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.errors import StoreError
from bench.results.store import Store, read_json

DAMAGED = "damaged"  # the state of a report, as of a cell, that is not what was written


def read_report(path: Path) -> dict[str, Any]:
    """Read the report of an audit; raises StoreError where it is not what bench wrote."""
    again = f"Delete {path} and run its `bench audit` again: its attacks are kept."
    try:
        report = read_json(path)
    except StoreError as error:
        raise StoreError(
            f"the report of audit {path.parent.name} is damaged. {again}"
        ) from error
    if not _is_whole(report):
        raise StoreError(f"the report of audit {path.parent.name} lacks its state. {again}")
    return report


def _is_whole(report: Mapping[str, Any]) -> bool:
    accuracy = report.get("accuracy")
    number = accuracy.get("robust_high") if isinstance(accuracy, dict) else 0.0
    return (
        isinstance(report.get("state"), str)
        and isinstance(accuracy, dict | None)
        and isinstance(number, int | float)
    )


def reports(store: Store) -> dict[str, dict[str, Any]]:
    """Read every report of a results folder by subject; of a damaged one only that it is."""
    found = {}
    for path in store.audits():
        try:
            found[path.parent.name] = read_report(path)
        except StoreError:
            found[path.parent.name] = {"state": DAMAGED}
    return found

"""What audits say, read back from their reports; a damaged one says nothing. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.errors import StoreError
from bench.results.files import read_json
from bench.results.store import Store

_FINDING = ("check", "state", "figure", "reason")  # what is read of each
DAMAGED = "damaged"  # the state of a report, as of a cell, that is not what was written


def read_report(path: Path) -> dict[str, Any]:
    """Read the report of an audit; raises StoreError where it is not what bench wrote."""
    try:
        report = read_json(path)
        texts = [report["state"], report["verdict"]]
        for found in report["findings"]:
            texts += [found[name] for name in _FINDING]
        if report.get("accuracy") is not None:
            float(report["accuracy"]["robust_high"])
        int(report["subject"]["n"])
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("not all that it says is text")
    except (StoreError, KeyError, TypeError, ValueError) as error:
        raise StoreError(
            f"the report of audit {path.parent.name} is not what bench wrote. Delete {path} "
            "and run its `bench audit` again: its attacks are kept."
        ) from error
    return report


def reports(store: Store) -> dict[str, dict[str, Any]]:
    """Read every report of a results folder by subject; of a damaged one only that it is."""
    found = {}
    for path in store.audits():
        try:
            found[path.parent.name] = read_report(path)
        except StoreError:
            found[path.parent.name] = {"state": DAMAGED}
    return found


def damaged_audits(store: Store) -> list[str]:
    """List the subjects of which the report is damaged."""
    return [subject for subject, report in reports(store).items() if report["state"] == DAMAGED]

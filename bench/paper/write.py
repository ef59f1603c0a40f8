"""The files of a table: a sidecar that names its cells, and CSV, Markdown and LaTeX from it.

Imports no torch. The sidecar and the cells determine the other three to the byte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bench.errors import StoreError
from bench.paper.cells import Cells, check_present, records
from bench.paper.latex import latex
from bench.paper.spec import Head, Run, TableFile
from bench.paper.tables import constants, page, table
from bench.results.audits import reports
from bench.results.cell import asked_of, digest_of, is_key, subject_of
from bench.results.certificates import certified
from bench.results.digests import fault
from bench.results.files import read_json, write_json
from bench.results.output import delivered
from bench.results.render import csv_text, markdown_lines
from bench.results.store import Store

_REBUILT = ("csv", "md", "tex")
_AUDIT = ("state", "accuracy")  # what a row's column `audit` needs of a report


def earlier(path: Path, store: Store) -> dict[str, str]:
    """Read which finished cells a sidecar names, if there is one, by what was asked of them."""
    if not path.is_file():
        return {}
    return {
        digest_of(asked_of(read_json(store.cell(key) / "cell.json"))): key
        for run in _keys(path, read_json(path))
        for key in run
        if store.outcomes(key).is_file() and fault(store.cell(key)) is None
    }


def write_table(
    path: Path, file: TableFile, cells: Sequence[Sequence[str]], store: Store, command: str
) -> pd.DataFrame:
    """Write a table for the first time: the sidecar at ``path``, then what it determines.

    ``cells``: the keys of the cells of each run.
    """
    runs = [
        {**_said(run), "cells": [{"key": key} for key in own]}
        for run, own in zip(file.runs, cells, strict=True)
    ]
    keys = list(dict.fromkeys(key for own in cells for key in own))
    content = {
        "command": command,
        **file.head.model_dump(),
        "runs": runs,
        "audits": _audits(store, keys),
        "certified": certified(store, keys),
        **_measured(store, keys),
    }
    frame = _frame(content, store)
    content["rows of the table"] = _provenance(frame)
    write_json(path, content)
    return rebuild(path, store)


def rebuild(path: Path, store: Store) -> pd.DataFrame:
    """Write CSV, Markdown and LaTeX from a sidecar and the cells; raises StoreError."""
    content = read_json(path)
    _keys(path, content)
    try:
        frame = _frame(content, store)
        head = _head(content)
        texts = [csv_text(frame), _markdown(frame, head, content),
                 latex(page(frame, head), [head.title, _made(frame, content)])]  # fmt: skip
    except KeyError as error:
        raise _other_version(path, error) from error
    for suffix, text in zip(_REBUILT, texts, strict=True):
        with delivered(path.with_suffix(f".{suffix}")) as temporary:
            temporary.write_text(text)
    return frame


def _keys(path: Path, content: Mapping[str, Any]) -> list[list[str]]:
    """List the cells that a sidecar names, run by run; raises StoreError."""
    try:
        keys = [[cell["key"] for cell in run["cells"]] for run in content["runs"]]
        if not all(is_key(key) for run in keys for key in run):
            raise TypeError("what it names are no keys of cells")
        return keys
    except (KeyError, TypeError) as error:
        raise _other_version(path, error) from error


def _other_version(path: Path, error: Exception) -> StoreError:
    return StoreError(
        f"{path} is not what this version of bench wrote ({type(error).__name__}: {error}). "
        "Delete it and measure the table again: finished cells are found."
    )


def _head(content: Mapping[str, Any]) -> Head:
    return Head.model_construct(**{name: content[name] for name in Head.model_fields})


def _frame(content: Mapping[str, Any], store: Store) -> pd.DataFrame:
    keys = [[cell["key"] for cell in run["cells"]] for run in content["runs"]]
    check_present(store, dict.fromkeys(key for run in keys for key in run), content["command"])
    runs = [
        # Sidecars from before there were certificates have none.
        (
            Cells(store, own, content["audits"], content.get("certified", {})),
            run.get("claims", run["paper"]),
        )
        for own, run in zip(keys, content["runs"], strict=True)
    ]
    return table(runs, _head(content))


def _said(run: Run) -> dict[str, Any]:
    """Keep what papers say of a run's defenses."""
    claims = {
        name: {**claim.model_dump(exclude={"access"}), "claimed_access": claim.access}
        for name, claim in run.claims.items()
    }
    return {"paper": run.paper, **({"claims": claims} if claims else {})}


def _audits(store: Store, keys: Sequence[str]) -> dict[str, Any]:
    """Keep what audits say of these cells: the audits themselves need not be committed."""
    subjects = [subject_of(read_json(store.cell(key) / "cell.json")) for key in keys]
    known = reports(store)
    return {
        subject: {name: known[subject].get(name) for name in _AUDIT}
        for subject in subjects
        if subject in known
    }


def _measured(store: Store, keys: Sequence[str]) -> dict[str, Any]:
    """Return when, by which source, with which versions and on what the cells were measured."""
    about = [
        read_json(store.cell(key) / "provenance.json")
        for key in keys
        if store.outcomes(key).is_file() and fault(store.cell(key)) is None
    ]
    names = sorted({name for one in about for name in one.get("versions", {})})
    dates = sorted(one["date"] for one in about)
    return {
        "date": [*dates[:1], *dates[-1:]],
        "commit": sorted({one["commit"] or "unknown" for one in about}),
        "versions": {
            name: sorted({one.get("versions", {}).get(name, "none") for one in about})
            for name in names
        },
        "device": sorted({device for one in about for device in one.get("devices", [])}),
    }


def _provenance(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Name what is behind every row of the CSV, in its order."""
    kept = ["dataset", "norm", "eps", "defense", "attack", "training_seed", "seed", "n",
            "classifier_checkpoint", "checkpoint", "state"]  # fmt: skip
    return [
        {
            **{name: None if pd.isna(row[name]) else row[name] for name in kept},
            "settings": str(row["settings"]),
            "keys": row["keys"].split(),
        }
        for row in records(frame)
    ]


def _made(frame: pd.DataFrame, content: Mapping[str, Any]) -> str:
    """Return in one line how the table came about."""
    days = sorted({date[:10] for date in content["date"]})
    digests = {
        f"{row['defense']} {digest[:8]}"
        for row in records(frame)
        for digest in str(row["checkpoint"] or "").split()
        if digest not in ("", "nan")
    }
    classifiers = {
        f"{row['classifier']} {row['classifier_checkpoint'][:8]}"
        for row in records(frame)
        if row["classifier_checkpoint"]
    }
    checkpoints = ", ".join(sorted(classifiers) + sorted(digests)) or "none"
    return (
        f"Made by `{content['command']}`, measured {' to '.join(days) or 'never'}; "
        f"checkpoints (SHA-256): {checkpoints}. {constants(frame)}. Percent and points; 95 % "
        "intervals."
    )


def _markdown(frame: pd.DataFrame, head: Head, content: Mapping[str, Any]) -> str:
    heads, rows = page(frame, head)
    text = [f"# {head.title}", ""]
    text += [" ".join(head.text.split()), ""] if head.text else []
    table = markdown_lines(heads, rows)
    return "\n".join([*text, *table, "", _made(frame, content), ""])

"""Which cells a deposit may have: finished ones that nobody changed, with what they need."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from bench.errors import BenchError, StoreError, UsageError
from bench.results.cell import Cell
from bench.results.compare import complete_key
from bench.results.digests import MALFORMED
from bench.results.files import read_json
from bench.results.store import Store
from bench.results.table import rows_of
from bench.verification.digests import changed_images

_SHOWN = 10  # cells in a message


def chosen(store: Store, asked: Sequence[str], *, images: bool) -> list[str]:
    """Complete these keys, of all cells where none is asked for; raises BenchError.

    Cells whose survivors a cell attacked come with it. What cannot be deposited is named.
    """
    there = store.keys()
    if not there:
        raise UsageError(
            f"there are no cells in {store.root}. Make some with `bench run`, or name another "
            "folder: bench attest FOLDER."
        )
    named = {complete_key(there, text) for text in asked} or _measured(store, there)
    if not named:
        raise UsageError(f"no cell in {store.root} was measured: there is nothing to deposit.")
    keys, faults = _with_earlier(store, sorted(named), set(there))
    rows = rows_of(store, keys, {})
    for row in rows[rows["state"] != "done"].to_dict("records"):
        why = f": {row['note']}" if row["note"] else ""
        faults.append(f"{row['key']} ({row['defense']} under {row['attack']}) is "
                      f"{row['state']}{why}")  # fmt: skip
    if not faults and images:
        faults += list(_without_images(store, keys))
    if faults:
        more = f"\n  and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        lines = "".join(f"\n  {fault}" for fault in faults[:_SHOWN])
        raise StoreError(
            f"these cells cannot be deposited:{lines}{more}\nRun their commands to the end or "
            "move their folders away; or name the keys of other cells."
        )
    return keys


def _measured(store: Store, keys: Iterable[str]) -> set[str]:
    """Leave out what was never to be measured: combinations that are not supported."""
    return {key for key in keys if not (store.cell(key) / "skipped.json").is_file()}


def _with_earlier(
    store: Store, keys: Sequence[str], there: set[str]
) -> tuple[list[str], list[str]]:
    """Add the cells whose survivors were attacked; the faults name those that are not there."""
    found, todo, faults = set(), list(keys), []
    while todo:
        key = todo.pop()
        if key in found:
            continue
        found.add(key)
        try:
            cell = Cell.read(read_json(store.cell(key) / "cell.json"))
        except (BenchError, *MALFORMED) as error:
            faults.append(f"{key} is of another version or was changed ({error})")
            continue
        lost = set(cell.after) - there
        faults += [f"{key} attacked what {other} left, which is not there" for other in lost]
        todo += sorted(set(cell.after) & there)
    return sorted(found), faults


def _without_images(store: Store, keys: Sequence[str]) -> Iterator[str]:
    """Name the cells whose attacked images are missing, or not those that were judged."""
    from bench.deposits.contents import image_members

    for key in keys:
        lost = [
            where
            for where in image_members(store, [key]).values()
            if not store.proposal(*where).is_file()
        ]
        if lost:
            folder = store.proposal(*lost[0]).parent
            yield (
                f"{key}: {len(lost)} files of its images are not in {folder} (git does not "
                "track them; deposit it with --without-images)"
            )
        cell = Cell.read(read_json(store.cell(key) / "cell.json"))
        about = read_json(store.cell(key) / "provenance.json")
        for text in changed_images(store, cell.proposal_key(), about):
            yield f"{key} is damaged: {text}"


def results_or_keys(words: Sequence[str], results: Path) -> tuple[Path, list[str]]:
    """Tell a results folder from keys of cells; raises UsageError for both together."""
    folders = [word for word in words if Path(word).expanduser().is_dir()]
    if not folders:
        return results, list(words)
    if len(words) > 1:
        raise UsageError(
            f"{folders[0]} is a folder: name one results folder or keys of cells. Keys are "
            "looked for in the folder of --results."
        )
    return Path(folders[0]).expanduser(), []

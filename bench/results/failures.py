"""What tries that failed leave behind: no row that nobody asked for any more. No torch."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from bench.errors import StoreError
from bench.results.cell import Cell, asked_of
from bench.results.digests import MALFORMED
from bench.results.files import read_json
from bench.results.locks import is_held
from bench.results.store import Store


def forget_failures(store: Store, content: Mapping[str, Any], *, run: str) -> None:
    """Drop rows of failures that asked for the same cell, of whatever source and checkpoint.

    ``content`` is what is written of a cell, or of one whose key is not known; ``run`` is the
    command that runs, whose own failures stay. What has finished shards stays, too: with the
    earlier source its command goes on.
    """
    wanted = _asked(content)
    for path in sorted((store.root / "cells").glob("*/failed.json")):
        folder = path.parent
        try:
            same = _asked(read_json(folder / "cell.json")) == wanted
            old = read_json(path).get("run") != run
        except (StoreError, *MALFORMED):  # damaged: it is shown as that
            continue
        if same and old and not any((folder / "shards").glob("*.parquet")):
            store.forget(folder.name)


@contextmanager
def no_row_without_a_shard(store: Store, cell: Cell) -> Iterator[None]:
    """Drop a cell that fails before anything of it was finished: its error was told."""
    try:
        yield
    except Exception:
        folder = store.cell(cell.key())
        begun = not store.done(cell) and len(store.missing(cell)) == len(cell.shards())
        elsewhere = any(
            is_held(store.claim_on_shard(cell.proposal_key(), *shard))
            for shard in cell.shards()
        )
        if begun and not elsewhere and not (folder / "failed.json").is_file():
            (folder / "cell.json").unlink(missing_ok=True)  # first: it makes the row
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _asked(content: Mapping[str, Any]) -> dict[str, Any]:
    asked = {**asked_of(content), "names": content.get("names")}  # where its files are
    return {
        name: {k: v for k, v in value.items() if k != "source"}
        if name in ("classifier", "defense", "attack")
        else value
        for name, value in asked.items()
    }

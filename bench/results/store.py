"""The only owner of paths under the results folder. Imports no torch.

    cells/<key>/cell.json            the cell
    cells/<key>/shards/              finished shards of an unfinished cell
    cells/<key>/outcomes.parquet     one row per image, once all shards are there
    cells/<key>/provenance.json      commit, versions, device, seconds, memory, passes, flags
    cells/<key>/skipped.json         why the combination is not supported
    cells/<key>/failed.json          the error of the latest try
    audits/<subject>/audit.json      the report on a defense under a ball, beside it as .md
    audits/<subject>/                a results folder of its own, with the audit's cells
    images/<key>/                    what the attacks proposed, stored before it is judged
    checkpoints/<data set>/          trained weights and their cards
    training/                        where an interrupted training goes on
    claims/                          what running processes are at; see bench.results.locks
    jobs/                            what was sent to Slurm, and its logs
    cache/                           what was read before; it may be deleted at any time
    figures/                         pictures, the numbers behind them and their origin
    runs.csv                         one row per cell, rebuilt from the cells

Every file is whole (``bench.results.files``): what exists was finished.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import StoreError
from bench.results.cell import SOURCES, Cell, is_key
from bench.results.digests import digest_of_pixels, fault, sealed
from bench.results.files import (
    END,
    TEMPORARY,
    cannot_read,
    drop_left,
    read_json,
    write_json,
    written,
)
from bench.results.locks import sweep
from bench.results.settings import Settings

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

# In the results folder itself, which may hold a user's other things.
_OURS = re.compile(rf"\.(?:runs\.csv|\.probe){END}|\.claims-()\d+")
_SWEPT = (
    "cells", "images", "checkpoints", "training", "audits", "figures", "paper", "jobs", "cache",
)  # fmt: skip
_IMAGES = "images sha256"  # of a shard's pixels, until the cell is whole


def read_rows(path: Path) -> pd.DataFrame:
    """Read a cell's per-image outcomes; raises StoreError where the cell is damaged."""
    folder = path.parent
    if found := fault(folder):
        raise damage(folder, found)
    rows = unchecked_rows(path)
    cell = read_json(folder / "cell.json")
    if not cell.get("after") and len(rows) != cell["n"]:
        raise damage(folder, f"{path.name} has {len(rows)} rows, not {cell['n']}")
    return rows


def unchecked_rows(path: Path) -> pd.DataFrame:
    """Read outcomes whatever their digest; raises StoreError where they cannot be read."""
    rows: pd.DataFrame = _read_table(path).to_pandas()
    return rows


def damage(folder: Path, found: str) -> StoreError:
    """Build the error for a cell of which something is not what was written."""
    return StoreError(
        f"cell {folder.name} is damaged: {found}. Delete its folder and run its command again, "
        "or restore the file."
    )


def _read_table(path: Path) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        # Half the time of pandas.read_parquet, whose search for data sets a file does not need.
        file = parquet.ParquetFile(path, page_checksum_verification=True)
        return file.read(use_threads=False)
    except (OSError, ValueError, LookupError, pa.ArrowException, MemoryError) as error:
        raise cannot_read(path, error) from error


def _checked(key: str) -> str:
    """Return a key that is one: others might lead out of the folder."""
    if not is_key(key):
        raise StoreError(
            f"{key!a} is no key of a cell, which has 16 hexadecimal digits. Remove what has "
            "that name, or look for it with `bench verify`."
        )
    return key


class Store:
    """A results folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def probe(self) -> None:
        """Find out whether the folder can be written before any work; raises StoreError."""
        if self.root.is_file():
            raise StoreError(
                f"{self.root} is a file, not a folder. Name another folder with --results."
            )
        probe = self.root / ".probe"
        with written(probe) as temporary:
            temporary.write_bytes(b"")
        probe.unlink(missing_ok=True)  # another process may probe as well
        self._sweep()

    def _sweep(self) -> None:
        """Remove what killed processes left: claims, and files half written."""
        sweep(self.root / "claims")
        drop_left(self.root, os.listdir(self.root), _OURS)
        for folder in _SWEPT:
            for where, _, names in os.walk(self.root / folder):
                drop_left(Path(where), names, TEMPORARY)

    @property
    def runs(self) -> Path:
        """The table of all cells as CSV."""
        return self.root / "runs.csv"

    @property
    def figures(self) -> Path:
        """Where figures go by default."""
        return self.root / "figures"

    def cell(self, key: str) -> Path:
        """Name the folder of a cell; raises StoreError for what is no key."""
        return self.root / "cells" / _checked(key)

    def keys(self) -> list[str]:
        """List the keys of all cells."""
        cells = str(self.root / "cells")
        try:
            names = sorted(os.listdir(cells))
        except OSError:
            return []
        return [name for name in names if os.path.exists(f"{cells}/{name}/cell.json")]

    def cells(self) -> list[Path]:
        """List the folders of all cells, by key."""
        return [self.root / "cells" / key for key in self.keys()]

    def finished(self) -> list[str]:
        """List the keys of all cells that have outcomes, whatever else they lack."""
        found = (self.root / "cells").glob("*/outcomes.parquet")
        return sorted(path.parent.name for path in found)

    def outcomes(self, key: str) -> Path:
        """Name the per-image outcomes of a finished cell."""
        return self.cell(key) / "outcomes.parquet"

    def done(self, cell: Cell) -> bool:
        """Say whether nothing is left to do for a cell."""
        return self.outcomes(cell.key()).is_file()

    def open(self, cell: Cell, settings: Settings) -> None:
        """Write down a cell that is about to run, with what the user set."""
        if fault(self.cell(cell.key())) is None:
            return  # another process has it: what it hashes must not change
        found = {SOURCES: dict(cell.sources)} if cell.sources else {}
        content = {**cell.canonical(), **settings.stored(), **found}
        write_json(self.cell(cell.key()) / "cell.json", content)

    def forget(self, key: str) -> None:
        """Drop the folder of an earlier failure, if there is one."""
        if (self.cell(key) / "failed.json").is_file():
            (self.cell(key) / "cell.json").unlink(missing_ok=True)  # else it might be left over
            shutil.rmtree(self.cell(key), ignore_errors=True)

    def skip(self, content: Mapping[str, Any], key: str, reason: str) -> None:
        """Write down a combination that is not supported, with the reason."""
        write_json(self.cell(key) / "skipped.json", {"reason": reason})
        write_json(self.cell(key) / "cell.json", content)

    def fail(self, content: Mapping[str, Any], key: str, reason: str, run: str) -> None:
        """Write down why the latest try of a cell failed, and in which run that was."""
        write_json(self.cell(key) / "failed.json", {"reason": reason, "run": run})
        if fault(self.cell(key)) is not None:  # a cell that has begun is written down already
            write_json(self.cell(key) / "cell.json", content)

    def failed(self, key: str, run: str) -> bool:
        """Say whether a cell failed in a run, in whichever of its processes."""
        try:
            content = json.loads((self.cell(key) / "failed.json").read_text())
        except (OSError, ValueError):
            return False
        return isinstance(content, dict) and content.get("run") == run

    def missing(self, cell: Cell) -> list[tuple[int, int]]:
        """List the shards [start, stop) of a cell that nobody has finished."""
        key = cell.key()
        try:
            # The folder, not file by file: a network file system remembers what it missed.
            there = set(os.listdir(self.cell(key) / "shards"))
        except FileNotFoundError:
            there = set()
        found = [
            shard for shard in cell.shards() if self.shard(key, shard[0]).name not in there
        ]
        # In this order: whoever finishes a cell drops its shards when the whole is there.
        return [] if found and self.done(cell) else found

    @property
    def cache(self) -> Path:
        """Where derived data lies that only saves time."""
        return self.root / "cache"

    @property
    def jobs(self) -> Path:
        """Where the jobs sent to Slurm are noted and write their logs."""
        return self.root / "jobs"

    def claim(self, name: str) -> Path:
        """Name the claim on a piece of work."""
        return self.root / "claims" / name

    def claim_on_shard(self, key: str, start: int, stop: int) -> Path:
        """Name the claim on a shard under an attack, by the key of its proposals.

        Cells that share proposals share their claims too, so that nothing is attacked twice.
        """
        return self.claim(f"{key}-{start:06d}-{stop:06d}")

    def shard(self, key: str, start: int) -> Path:
        """Name the outcomes of one shard."""
        return self.cell(key) / "shards" / f"{start:06d}.parquet"

    def append(
        self, cell: Cell, start: int, rows: Mapping[str, Any], provenance: Mapping[str, Any]
    ) -> None:
        """Keep a finished shard: its rows (columns of equal length) and how they came about."""
        import pandas as pd

        path = self.shard(cell.key(), start)
        images = self.proposal(cell.proposal_key(), start, min(start + cell.shard, cell.n))
        about = {**provenance, _IMAGES: digest_of_pixels(images)}
        write_json(path.with_suffix(".json"), about)
        with written(path) as temporary:
            pd.DataFrame(dict(rows)).to_parquet(temporary, index=False)

    def finish(
        self, cell: Cell, join: Callable[[list[dict[str, Any]]], dict[str, Any]]
    ) -> None:
        """Join all shards of a cell to one file and drop them."""
        try:
            self._join(cell, join)
        except StoreError:
            # Another process on the same folder may have joined and dropped them first.
            if not self.done(cell):
                raise
        self.tidy(cell)

    def tidy(self, cell: Cell) -> None:
        """Drop what a finished cell has no more use for: its shards and an earlier failure."""
        folder = self.cell(cell.key())
        shutil.rmtree(folder / "shards", ignore_errors=True)
        (folder / "failed.json").unlink(missing_ok=True)

    def _join(self, cell: Cell, join: Callable[[list[dict[str, Any]]], dict[str, Any]]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as parquet

        key = cell.key()
        shards = [self.shard(key, start) for start, _ in cell.shards()]
        tables = [_read_table(path) for path in shards]
        # Where no image was left to attack a shard has no rows, and its columns no types.
        whole = pa.concat_tables([table for table in tables if len(table)] or tables[:1])
        about = [read_json(path.with_suffix(".json")) for path in shards]
        images = {
            f"{start:06d}-{stop:06d}": one.pop(_IMAGES)
            for (start, stop), one in zip(cell.shards(), about, strict=True)
            if _IMAGES in one  # shards of an earlier version have none
        }
        content = read_json(self.cell(key) / "cell.json")
        with written(self.outcomes(key)) as temporary:
            parquet.write_table(whole, temporary, write_page_checksum=True)
            provenance = sealed(content, join(about), temporary, images)
            write_json(self.cell(key) / "provenance.json", provenance)

    def proposal(self, key: str, start: int, stop: int) -> Path:
        """Name what an attack proposed for one shard; raises StoreError for what is no key."""
        return self.root / "images" / _checked(key) / f"{start:06d}-{stop:06d}.safetensors"

    def audit(self, subject: str) -> Path:
        """Name the report on a defense and a ball; the folder has the audit's own cells."""
        return self.root / "audits" / subject / "audit.json"

    def audits(self) -> list[Path]:
        """List all audit reports."""
        return sorted((self.root / "audits").glob("*/audit.json"))

    def checkpoint(self, dataset: str, name: str, identity: str) -> Path:
        """Name a checkpoint; its card lies beside it."""
        return self.root / "checkpoints" / dataset / f"{name}-{identity}.safetensors"

    def checkpoints(self) -> list[Path]:
        """List all checkpoints."""
        return sorted((self.root / "checkpoints").glob("*/*.safetensors"))

    def training(self, identity: str) -> Path:
        """Name the state of an unfinished training."""
        return self.root / "training" / f"{identity}.pt"

"""What has become of the cells of a plan, and what is at work in a folder. Imports no torch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from bench.results.locks import is_held
from bench.results.store import Store

_SHARD = re.compile(r"[0-9a-f]+-\d+-\d+")  # its key, first and last image


class CellState(StrEnum):
    """What has become of a cell."""

    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"
    RUNNING = "running"
    OPEN = "open"


@dataclass(frozen=True)
class CellStatus:
    """A cell of a plan: images finished of all, and the key where it is final."""

    title: str
    state: CellState
    done: int
    total: int
    note: str = ""
    key: str | None = None


def at_work(store: Store) -> Counter[str]:
    """Count what living processes have claimed: trainings, audits and shards, if any."""
    found: Counter[str] = Counter()
    for path in sorted((store.root / "claims").glob("*")):
        kind = {"train": "training", "audit": "audit"}.get(path.name.split("-")[0], "shard")
        if kind == "shard" and not _SHARD.fullmatch(path.name):
            continue  # the list of runs, or a batch of shards, each of which is claimed too
        found[kind] += is_held(path)
    return found


def counted(counts: Mapping[str, int]) -> str:
    """Write counts in words, such as '1 training, 2 shards'."""
    return ", ".join(f"{n} {name}{'s' * (n > 1)}" for name, n in counts.items() if n)

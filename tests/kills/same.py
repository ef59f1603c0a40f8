"""How a folder differs from that of commands that nobody interrupted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors.numpy import load_file

SAID, TOLD = "said.txt", "told.txt"  # what the command wrote to its two streams
_PASSING = ("date", "seconds", "attack seconds", "judge seconds", "peak memory MiB", "commit",
            "provenance.json", "memory")  # fmt: skip


def differences(ours: Path, theirs: Path) -> Iterator[str]:
    """Name what is left behind, what is missing, and what has another content."""
    one, other = set(_files(ours)), set(_files(theirs))
    yield from (f"left behind: {name}" for name in sorted(one - other))
    yield from (f"missing: {name}" for name in sorted(other - one))
    for name in sorted(one & other):
        if not _same(ours / name, theirs / name):
            yield f"another content: {name}"


def _files(folder: Path) -> Iterator[str]:
    """List all that is there: empty folders too, but those of claims and trainings.

    What a command looked up is kept in the cache, and made again where it is missing.
    """
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        passing = name in (SAID, TOLD, "results/claims", "results/training")
        if not passing and not name.startswith("results/cache"):
            yield name


def _same(one: Path, other: Path) -> bool:
    if one.is_dir() or other.is_dir():
        return one.is_dir() and other.is_dir()
    if one.name == "runs.csv":
        first, second = (pd.read_csv(path) for path in (one, other))
        lasting = [name for name in first if name not in _PASSING]
        return bool(first[lasting].equals(second[lasting]))
    if one.suffix == ".json":
        first, second = (_lasting(json.loads(path.read_text())) for path in (one, other))
        return bool(first == second)
    if one.parent.parent.name == "images":  # the header has the seconds of the attack
        pixels = [load_file(path)["x_adv"].tobytes() for path in (one, other)]
        return pixels[0] == pixels[1]
    return one.read_bytes() == other.read_bytes()


def _lasting(content: Any) -> Any:
    if isinstance(content, dict):
        return {k: _lasting(v) for k, v in content.items() if k not in _PASSING}
    return [_lasting(v) for v in content] if isinstance(content, list) else content

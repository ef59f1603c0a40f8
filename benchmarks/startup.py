"""How long the commands take that compute nothing."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from statistics import median

from benchmarks.cells import fill
from benchmarks.rows import Row, Settings

ITEM = "startup"
_BENCH = "import sys; from bench.cli import main; main()"


def rows(settings: Settings) -> Iterator[Row]:
    """Measure ``--help``, ``list`` and ``table``, beside an interpreter that does nothing."""
    cells = settings.size(10_000, quick=20)
    root = settings.scratch / "cells"
    fill(root, cells)
    commands = {
        "python -c pass": ["-c", "pass"],
        "bench --help": ["-c", _BENCH, "--help"],
        "bench list": ["-c", _BENCH, "list"],
        f"bench table on {cells:,} cells": [
            "-c", _BENCH, "table", "--format", "csv", "--results", str(root)
        ],
    }  # fmt: skip
    repeats = 1 if settings.quick else 3
    wall: dict[str, list[float]] = {name: [] for name in commands}
    cpu: dict[str, list[float]] = {name: [] for name in commands}
    lines: dict[str, int] = {}
    for _ in range(repeats):
        for name, words in commands.items():
            began, began_cpu = time.perf_counter(), _children()
            done = subprocess.run(
                [sys.executable, *words], capture_output=True, text=True, check=True
            )
            wall[name].append(time.perf_counter() - began)
            cpu[name].append(_children() - began_cpu)
            lines[name] = len(done.stdout.splitlines())
    for name, found in wall.items():
        yield Row(
            ITEM, name, median(found), "s", min(found), max(found), median(cpu[name]), repeats,
            checked=f"{lines[name]:,} lines of output",
        )  # fmt: skip


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime

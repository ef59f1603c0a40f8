"""How long the commands take that compute nothing."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

from bench.experiments.finished import keep_plan
from bench.experiments.plan import Plan, read_plan
from bench.results.store import Store
from benchmarks.cells import RIVAL, fill
from benchmarks.rows import Row, Settings

ITEM = "startup"
_BENCH = "import sys; from bench.cli import main; main()"
_PLANNED = 9_900  # a file of a plan has at most 10,000 values
_TARGETS = {"run": 1.0, "table": 1.0, "status": 2.0, "compare": 2.0, "report": 2.0}  # seconds


def rows(settings: Settings) -> Iterator[Row]:
    """Measure them beside an interpreter that does nothing.

    The first time, which is not counted, a command reads all cells; the others are told apart
    from it by nothing.
    """
    commands = {"python -c pass": ["-c", "pass"]} | {
        name: ["-c", _BENCH, *words]
        for name, words in {
            "bench --help": ["--help"],
            "bench list": ["list"],
            **_finished_run(settings),
            **_many_cells(settings),
        }.items()
    }
    repeats = 1 if settings.quick else 5
    wall: dict[str, list[float]] = {name: [] for name in commands}
    cpu: dict[str, list[float]] = {name: [] for name in commands}
    lines: dict[str, int] = {}
    for turn in range(repeats + 1):
        for name, words in commands.items():
            took, used, lines[name] = _timed(words)
            if turn:
                wall[name].append(took)
                cpu[name].append(used)
    for name, found in wall.items():
        command = name.removeprefix("bench ").replace(",", "").split(" ")[0]
        yield Row(
            ITEM, name, median(found), "s", min(found), max(found), median(cpu[name]), repeats,
            at_most=_TARGETS.get(command), checked=f"{lines[name]:,} lines of output",
        )  # fmt: skip


def _timed(words: Sequence[str]) -> tuple[float, float, int]:
    """Run an interpreter; return seconds, seconds of CPU time, and its lines of output."""
    began, began_cpu = time.perf_counter(), _children()
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True)
    lines = len(done.stdout.splitlines())
    return time.perf_counter() - began, _children() - began_cpu, lines


def _finished_run(settings: Settings) -> dict[str, list[str]]:
    """Measure a small cell, so that its command has nothing left to do."""
    words = ["run", "--defense=none", "--attack=noise", "-n", "10", "--draws=2"]
    words += ["--set=classifier.training.epochs=1", f"--results={settings.scratch / 'run'}"]
    return {"bench run, when its cell is finished": words}


def _many_cells(settings: Settings) -> dict[str, list[str]]:
    cells = settings.size(10_000, quick=20)
    root, plan = settings.scratch / "cells", settings.scratch / "plan.yaml"
    keys = [cell.key() for cell in fill(root, cells)]
    planned = [keys[0], *keys[2:]][:_PLANNED]
    plan.write_text(
        "defenses: none\nattacks: noise\nthreats: {eps: 0.1}\nn: 10\nshard: 10\ndraws: 1\n"
        f"seeds: {list(range(len(planned)))}\n"
    )
    _remember(read_plan(plan), planned, Store(root), root)
    where, on = f"--results={root}", f"on {cells:,} cells"
    return {
        f"bench table {on}": ["table", where],
        f"bench table --format csv {on}": ["table", "--format=csv", where],
        f"bench status on a plan of {len(planned):,} cells": [
            "status",
            str(plan),
            where,
            f"--data={root}",
        ],
        f"bench compare {on}": ["compare", *keys[:2], where],
        f"bench report {on}": ["report", f"--defense={RIVAL}", "--eps=0.1", where],
    }


def _remember(plan: Plan, keys: list[str], store: Store, data: Path) -> None:
    """Say of made-up cells that they finished a plan, as the plan itself would."""
    keep_plan(keys, [f"seed {seed}" for seed in range(len(keys))], plan, store=store, data=data)


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime

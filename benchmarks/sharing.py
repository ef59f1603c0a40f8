"""Ten purifiers under one transfer attack against one purifier."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pandas as pd

from bench.progress import finish
from bench.run import run_cell
from bench.threat import Access
from bench_attacks.autoattack import AutoAttack
from bench_defenses.bit_depth import BitDepth
from bench_defenses.langevin import LangevinPurifier
from benchmarks.clock import interleaved
from benchmarks.rows import Row, Settings
from benchmarks.subjects import Subject, subject, workspace

ITEM = "sharing"
EPS = Fraction(8, 255)


def rows(settings: Settings) -> Iterator[Row]:
    """Measure transfer AutoAttack and its judging, for ten cells and for one."""
    found = subject(settings)
    n, many = settings.size(20, quick=4), settings.size(10, quick=3)
    deterministic = [(f"bit_depth {k}", BitDepth(bits=k % 8 + 1)) for k in range(many)]
    yield _row(settings, found, deterministic, n, 1, "deterministic", 1.2)
    energy, draws = found.energy, settings.size(50, quick=3)
    langevin = [
        (f"langevin {k}", LangevinPurifier(energy, steps=1 + k, step_size=5.0, noise=0.01))
        for k in range(many)
    ]
    yield _row(settings, found, langevin, n, draws, "1 to 10 Langevin steps,", None)


def _row(
    settings: Settings,
    found: Subject,
    purifiers: list[tuple[str, Any]],
    n: int,
    draws: int,
    kind: str,
    at_most: float | None,
) -> Row:
    folders: list[int] = []

    def cells(which: list[tuple[str, Any]]) -> Callable[[], list[pd.DataFrame]]:
        def run() -> list[pd.DataFrame]:
            with tempfile.TemporaryDirectory(dir=settings.scratch) as folder:
                space, outcomes = workspace(Path(folder)), []
                for name, purifier in which:
                    one = found.cell(
                        AutoAttack(), access=Access.TRANSFER, n=n, eps=EPS, draws=draws,
                        purifier=purifier, name=name,
                    )  # fmt: skip
                    finish(run_cell(one, space=space))
                    outcomes.append(pd.read_parquet(space.store.outcomes(one.cell.key())))
                folders.append(len(list((space.store.root / "images").iterdir())))
            return outcomes

        return run

    every, first = cells(purifiers), cells(purifiers[-1:])
    same = every()[-1].equals(first()[0])
    times = interleaved({"all": every, "one": first}, repeats=min(3, settings.repeats))
    return times.ratio(
        "all",
        "one",
        item=ITEM,
        what=f"{len(purifiers)} purifiers / 1, {kind} {draws} draws each, {n} images",
        at_most=at_most,
        checked=f"attacks made: {max(folders)}; the last one's outcomes by itself: "
        + ("equal" if same else "NOT equal"),
        reason="" if at_most else "the attack is made once; each purifier has its own judging",
    )

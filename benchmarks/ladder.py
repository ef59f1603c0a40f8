"""Cheap attacks first and expensive ones on survivors, against every attack on every image."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bench.core.threat import Access
from bench.evaluation.run import run_cell
from bench.results.files import read_json
from bench.results.progress import finish
from bench_attacks.apgd import Apgd
from bench_attacks.bpda_eot import BpdaEot
from bench_attacks.noise import Noise
from bench_attacks.pgd import Pgd
from benchmarks.clock import interleaved
from benchmarks.rows import Row, Settings
from benchmarks.subjects import Subject, open_workspace, subject

ITEM = "ladder"


@dataclass(frozen=True)
class Climbed:
    """``robust`` by image, under the worst attack, and the ``passes`` of all."""

    robust: dict[int, bool]
    passes: int


def rows(settings: Settings) -> Iterator[Row]:
    """Measure time and passes of four attacks up to the full gradient."""
    found = subject(settings)
    n, steps = settings.size(50, quick=10), settings.size(5, quick=2)
    climb, every = (
        run_of(settings, found, n=n, steps=steps, survivors=survivors)
        for survivors in (True, False)
    )
    one, other = climb(), every()
    differ = sum(one.robust[i] != other.robust[i] for i in other.robust)
    checked = (
        f"verdicts that differ: {differ} of {n}; robust in the end: "
        f"{sum(one.robust.values())} and {sum(other.robust.values())}"
    )
    yield Row(
        ITEM,
        f"every attack on every image / survivors first: passes, 4 attacks, {n} images",
        other.passes / one.passes,
        checked=checked,
        repeats=1,
        reason=f"{other.passes:,} and {one.passes:,} passes, attack and judge; {found.note}",
    )
    times = interleaved({"every": every, "climb": climb}, repeats=min(2, settings.repeats))
    yield times.ratio(
        "every",
        "climb",
        item=ITEM,
        what=f"every attack on every image / survivors first: time, 4 attacks, {n} images",
        checked=checked,
    )


def run_of(
    settings: Settings, found: Subject, *, n: int, steps: int, survivors: bool
) -> Callable[[], Climbed]:
    """Build a run of all attacks; without warm starts, so that verdicts can be equal."""
    draws = settings.size(20, quick=5)
    attacks: list[tuple[Any, Access]] = [
        (Noise(tries=steps, eot=2), Access.QUERY),
        (BpdaEot(steps=steps, eot=5), Access.BPDA),
        (Pgd(steps=2 * steps, eot=5), Access.FULL),
        (Apgd(steps=4 * steps, eot=5, warm=False), Access.FULL),
    ]

    def run() -> Climbed:
        with tempfile.TemporaryDirectory(dir=settings.scratch) as folder:
            workspace = open_workspace(Path(folder))
            after: tuple[str, ...] = ()
            robust, passes = dict.fromkeys(range(n), True), 0
            for attack, access in attacks:
                one = found.cell(
                    attack, access=access, n=n, eps=found.eps, draws=draws, after=after
                )
                finish(run_cell(one, workspace=workspace))
                key = one.cell.key()
                outcomes = pd.read_parquet(workspace.store.outcomes(key))
                for index, stands in zip(outcomes["index"], outcomes["robust"], strict=True):
                    robust[int(index)] &= bool(stands)
                about = read_json(workspace.store.cell(key) / "provenance.json")
                passes += sum(about["attack passes"].values())
                passes += sum(about["judge passes"].values())
                after = (*after, key) if survivors else ()
            return Climbed(robust, passes)

    return run

"""How time and memory grow with images, steps, draws and cells."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from statistics import median

import torch

from bench.core.rng import Rng
from bench.core.threat import Access, Norm, ThreatModel
from bench.evaluation.judge import judge
from bench.evaluation.run import run_cell
from bench.results.progress import finish
from bench.results.store import Store
from bench.results.table import rows_of
from bench_attacks.pgd import Pgd
from bench_defenses.none import Identity
from benchmarks.cells import fill
from benchmarks.clock import interleaved
from benchmarks.full_gradient import gradient
from benchmarks.memory import peak
from benchmarks.rows import Row, Settings
from benchmarks.subjects import Subject, open_workspace, subject

ITEM = "growth"


def rows(settings: Settings) -> Iterator[Row]:
    """Measure at three sizes each, and fit time = constant + slope x size."""
    found = subject(settings)
    yield from _grown(settings, "images n", _images(settings, found))
    yield from _grown(settings, "steps K", _steps(settings, found))
    yield from _grown(settings, "draws", _draws(settings, found))
    yield from _grown(settings, "cells", _cells(settings))
    yield memory_by_images(settings)


def _grown(
    settings: Settings, what: str, work: Mapping[int, Callable[[], object]]
) -> Iterator[Row]:
    named = {str(size): run for size, run in work.items()}
    repeats = min(3, settings.repeats)
    times = interleaved(named, repeats=repeats)
    seconds = {size: median(times.wall[str(size)]) for size in work}
    cpu = {size: median(times.cpu[str(size)]) for size in work}
    sizes = f"{min(work):,} to {max(work):,}"
    yield Row(
        ITEM,
        f"time by {what}, {sizes}: exponent",
        exponent(seconds),
        "power",
        cpu=exponent(cpu),
        repeats=repeats,
        at_most=1.1,
        checked=", ".join(f"{size:,}: {value:.3g} s" for size, value in seconds.items()),
        reason="1 is linear; less where a constant counts at the smallest size",
    )
    yield Row(
        ITEM, f"time by {what}, {sizes}: slope", 1000 * slope(seconds), "ms each",
        cpu=1000 * slope(cpu), repeats=repeats,
    )  # fmt: skip


def exponent(seconds: Mapping[int, float]) -> float:
    """Fit seconds = c size^p by least squares of the logarithms and return p."""
    return slope({math.log(size): math.log(value) for size, value in seconds.items()})


def slope(points: Mapping[int, float] | Mapping[float, float]) -> float:
    """Fit a line by least squares and return its slope."""
    xs, ys = list(points), list(points.values())
    middle, level = sum(xs) / len(xs), sum(ys) / len(ys)
    above = sum((x - middle) * (y - level) for x, y in zip(xs, ys, strict=True))
    return above / sum((x - middle) ** 2 for x in xs)


def _images(settings: Settings, found: Subject) -> dict[int, Callable[[], object]]:
    sizes = (8, 64) if settings.quick else (100, 1000, 10_000)
    return {n: evaluating(settings, found, n) for n in sizes}


def evaluating(settings: Settings, found: Subject, n: int) -> Callable[[], None]:
    """Build a whole cell: PGD on the bare classifier, judged, stored."""

    def run() -> None:
        with tempfile.TemporaryDirectory(dir=settings.scratch) as folder:
            one = found.cell(
                Pgd(steps=3), access=Access.FULL, n=n, eps=Fraction(8, 255), purifier=Identity()
            )
            finish(run_cell(one, workspace=open_workspace(Path(folder))))

    return run


def _steps(settings: Settings, found: Subject) -> dict[int, Callable[[], object]]:
    sizes = (2, 8) if settings.quick else (10, 100, 1000)
    return {depth: gradient(found, depth, 8, "cpu", exact=True) for depth in sizes}


def _draws(settings: Settings, found: Subject) -> dict[int, Callable[[], object]]:
    images, defense = found.images(4), found.defense()
    threat = ThreatModel(Norm.LINF, Fraction(1, 10), Access.FULL)
    rng = Rng.seeded(0, images.indices)

    def judging(draws: int) -> Callable[[], object]:
        return lambda: judge(
            defense, images.x, images.y, images.x, threat=threat, draws=draws, rng=rng
        )

    return {n: judging(n) for n in ((2, 8) if settings.quick else (10, 100, 1000))}


def _cells(settings: Settings) -> dict[int, Callable[[], object]]:
    sizes = (4, 16) if settings.quick else (100, 1000, 10_000)

    def reading(cells: int) -> Callable[[], object]:
        root = settings.scratch / f"growth-{cells}"
        fill(root, cells)
        store = Store(root)
        keys = [folder.name for folder in store.cells()]
        return lambda: rows_of(store, keys, {})

    return {cells: reading(cells) for cells in sizes}


def memory_by_images(settings: Settings) -> Row:
    """Compare the peak memory of a cell on many images with that on few."""
    few, many = (8, 64) if settings.quick else (100, 10_000)
    mib = {
        n: peak(
            "benchmarks.growth:in_process",
            quick=settings.quick, data=str(settings.data), scratch=str(settings.scratch), n=n,
        )
        for n in (few, many)
    }  # fmt: skip
    return Row(
        ITEM,
        f"memory by images n: peak of {many:,} less that of {few:,}",
        mib[many] - mib[few],
        "MiB",
        repeats=1,
        at_most=32.0,
        checked=", ".join(f"{n:,}: {value:.1f} MiB" for n, value in mib.items()),
        reason="a cell holds one shard of 100 images at a time, and at its end all outcomes",
    )


def in_process(*, quick: bool, data: str, scratch: str, n: int) -> Callable[[], None]:
    """Prepare an evaluation in a process of its own, data and libraries loaded."""
    torch.set_num_threads(1)
    settings = Settings(quick=quick, data=Path(data), scratch=Path(scratch))
    found = subject(settings)
    evaluating(settings, found, 8)()
    return evaluating(settings, found, n)

"""Ten purifiers under one transfer attack against one purifier."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pandas as pd

from bench.core.threat import Access
from bench.evaluation.run import run_cell
from bench.results.files import read_json
from bench.results.progress import finish
from bench_attacks.autoattack import AutoAttack
from bench_defenses.bit_depth import BitDepth
from bench_defenses.energies.langevin import LangevinPurifier
from benchmarks.clock import interleaved
from benchmarks.rows import Row, Settings
from benchmarks.subjects import Subject, open_workspace, subject

ITEM = "sharing"
# Here the first of AutoAttack's attacks is enough, so that judging weighs the most.
EPS = Fraction(3, 10)
_PARTS = ("attack", "judge")


def rows(settings: Settings) -> Iterator[Row]:
    """Measure transfer AutoAttack and its judging, for ten cells and for one."""
    found = subject(settings)
    n, many = settings.size(100, quick=4), settings.size(10, quick=3)
    deterministic = [(f"bit_depth {k}", BitDepth(bits=k % 8 + 1)) for k in range(many)]
    yield from _compared(settings, found, deterministic, n, 1, "deterministic", 1.2)
    energy, draws = found.energy, settings.size(10, quick=3)
    langevin = [
        (f"langevin {k}", LangevinPurifier(energy, steps=1 + k, step_size=5.0, noise=0.01))
        for k in range(many)
    ]
    kind = f"1 to {many} Langevin steps"
    yield from _compared(settings, found, langevin, n, draws, kind, None)


def _compared(
    settings: Settings,
    found: Subject,
    purifiers: list[tuple[str, Any]],
    n: int,
    draws: int,
    kind: str,
    at_most: float | None,
) -> Iterator[Row]:
    attacks: list[int] = []
    passes: dict[int, int] = {}
    last: list[pd.DataFrame] = []

    def cells(which: list[tuple[str, Any]]) -> Callable[[], None]:
        def run() -> None:
            with tempfile.TemporaryDirectory(dir=settings.scratch) as folder:
                workspace, costs = open_workspace(Path(folder)), []
                for name, purifier in which:
                    one = found.cell(
                        AutoAttack(), access=Access.TRANSFER, n=n, eps=EPS, draws=draws,
                        purifier=purifier, name=name,
                    )  # fmt: skip
                    finish(run_cell(one, workspace=workspace))
                    about = read_json(workspace.store.cell(one.cell.key()) / "provenance.json")
                    costs.append([sum(about[f"{part} passes"].values()) for part in _PARTS])
                last.append(pd.read_parquet(workspace.store.outcomes(one.cell.key())))
                attacks.append(len(list((workspace.store.root / "images").iterdir())))
                # Every cell repeats what making the shared images cost.
                passes[len(which)] = costs[0][0] + sum(judging for _, judging in costs)

        return run

    work = {"all": cells(purifiers), "one": cells(purifiers[-1:])}
    times = interleaved(work, repeats=min(3, settings.repeats))
    same = all(_verdicts(frame) == _verdicts(last[0]) for frame in last)
    what = f"{len(purifiers)} purifiers / 1, {kind}, judged by {draws}, {n} images"
    checked = (
        f"attacks made: {max(attacks)}; verdicts of the last purifier among all and by itself: "
        + ("equal" if same else "NOT equal")
    )
    reason = "" if at_most else "the attack is made once; each purifier has its own judging"
    yield Row(
        ITEM,
        f"{what}: passes",
        passes[len(purifiers)] / passes[1],
        repeats=1,
        at_most=at_most,
        checked=checked,
        reason=reason,
    )
    yield times.ratio(
        "all",
        "one",
        item=ITEM,
        what=f"{what}: time",
        at_most=at_most,
        checked=checked,
        reason=reason or "beside passes each purifier has a cell of its own to store",
    )


def _verdicts(outcomes: pd.DataFrame) -> list[tuple[bool, bool]]:
    return list(zip(outcomes["clean"], outcomes["robust"], strict=True))

"""Judge the images of a row again, as `bench judge` does for what has a name."""

from __future__ import annotations

from dataclasses import replace

from bench.results.rows import write_runs
from bench.scripting.question import run
from bench.scripting.row import Row
from bench.verification.rejudge import rejudge


def judge(
    row: Row, *, draws: int | None = None, bits: int | None = None, progress: bool = True
) -> Row:
    """Judge a row's images with other draws, or rounded to ``bits`` per pixel.

    Raises BenchError. A row of an earlier session is found again by the call that made it.
    """
    with row.question.at_work() as workspace:
        work = rejudge(row.key, workspace=workspace, draws=draws, bits=bits)
        key = run(work, progress=progress)
        write_runs(workspace.store)
    return replace(row, key=key)

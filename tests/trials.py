"""A plan measured by one process, to be measured again by several."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .workers import bench, calls, run_here


@dataclass(frozen=True)
class Trial:
    """A plan measured by one process, and a folder to measure it in again."""

    plan: Path
    alone: Path
    ours: Path
    site: Path

    @property
    def log(self) -> Path:
        return self.ours.with_suffix(".log")

    @property
    def gate(self) -> Path:
        """The file that halts each process at its second attack, while the file is there."""
        return self.log.with_name(self.log.name + ".gate")

    def start(self, *words: str, by: int = 1) -> subprocess.Popen[str]:
        """Measure the plan by a process of its own."""
        given = ("matrix", self.plan, "--results", self.ours, *words)
        return bench(*given, site=self.site, log=self.log, by=by)

    def run(self, *words: str, by: int = 1, code: int = 0) -> tuple[str, str]:
        """Measure the plan by this process, or its workers; return stdout and stderr."""
        given = ("matrix", self.plan, "--results", self.ours, *words)
        return run_here(*given, site=self.site, log=self.log, by=by, code=code)

    def done_again(self) -> Counter[str]:
        """Count what was asked of plugins here and not by the one process."""
        ours, theirs = calls(self.log), calls(self.alone.with_suffix(".log"))
        assert not theirs - ours, "some work was never done"
        return ours - theirs


def trial(plan: Path, site: Path, ours: Path, *, code: int = 0) -> Trial:
    alone = plan.with_suffix("")
    log = alone.with_suffix(".log")
    run_here("matrix", plan, "--results", alone, site=site, log=log, code=code)
    return Trial(plan, alone, ours, site)


def wait_until(true: Callable[[], bool]) -> None:
    """Wait for what another process does; pytest's timeout ends what hangs."""
    while not true():
        time.sleep(0.05)

"""Time things that are compared in turns, A B A B, in one process and one thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from benchmarks.rows import Row


@dataclass(frozen=True)
class Times:
    """Seconds of each thing by the wall clock and by the process's CPU time, in order."""

    wall: Mapping[str, list[float]]
    cpu: Mapping[str, list[float]]

    def ratio(self, one: str, other: str, *, item: str, what: str, **rest: Any) -> Row:
        """Compare two things: the median over the rounds of ``one`` / ``other``."""
        ratios = [a / b for a, b in zip(self.wall[one], self.wall[other], strict=True)]
        cpu = [a / b for a, b in zip(self.cpu[one], self.cpu[other], strict=True) if b > 0]
        return Row(
            item,
            what,
            median(ratios),
            low=min(ratios),
            high=max(ratios),
            cpu=median(cpu) if cpu else None,
            repeats=len(ratios),
            **rest,
        )

    def seconds(self, name: str, *, item: str, what: str, **rest: Any) -> Row:
        """Report one thing by itself, in seconds."""
        found = self.wall[name]
        return Row(
            item,
            what,
            median(found),
            "s",
            min(found),
            max(found),
            median(self.cpu[name]),
            len(found),
            **rest,
        )


def interleaved(
    work: Mapping[str, Callable[[], object]], *, repeats: int, device: str = "cpu"
) -> Times:
    """Run everything once unmeasured, then ``repeats`` rounds of everything in turn."""

    def wait() -> None:
        if device.startswith("cuda"):
            torch.cuda.synchronize()

    wall: dict[str, list[float]] = {name: [] for name in work}
    cpu: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(repeats + 1):
        for name, run in work.items():
            wait()
            began, began_cpu = time.perf_counter(), time.process_time()
            run()
            wait()
            if turn:
                cpu[name].append(time.process_time() - began_cpu)
                wall[name].append(time.perf_counter() - began)
    return Times(wall, cpu)

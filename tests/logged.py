"""Plugins that write down every call, for tests that count work over several processes.

A test installs this file as a distribution of its own; it is no module of the tests.
"""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from bench.api import Access, Calls, Norm, Rng, Task, ThreatModel, Training, View
from bench_defenses.classifiers.small_cnn import SmallCnn

TRIED = 4  # images
HANG_S = 900  # ends what hangs, and nothing that is slow


def note(what: str, x: Tensor | None = None) -> None:
    digest = "" if x is None else hashlib.sha256(x.detach().numpy().tobytes()).hexdigest()[:12]
    with Path(os.environ["LOGGED"]).open("a") as log:
        log.write(f"{os.getpid()} {what} {digest}\n")
    with Path(os.environ["LOGGED"] + ".gpus").open("a") as log:
        log.write(f"{os.environ.get('CUDA_VISIBLE_DEVICES')}\n")


def processes() -> int:
    lines = Path(os.environ["LOGGED"]).read_text().splitlines()
    return len({line.split()[0] for line in lines if " attack " in line})


def attacks() -> int:
    """Count the attacks of this process."""
    lines = Path(os.environ["LOGGED"]).read_text().splitlines()
    return sum(line.startswith(f"{os.getpid()} attack ") for line in lines)


def wait_while(true: Callable[[], bool]) -> None:
    until = time.monotonic() + HANG_S
    while true():
        assert time.monotonic() < until, "what this process waits for never came"
        time.sleep(0.05)


@dataclass(frozen=True)
class Logged:
    """Uniform noise; the first calls wait until as many processes attack as LOGGED_BY says.

    Where there is a file beside the log with the ending .gate, a process halts at its second
    call until the file is gone: it has finished a block then, and is at another.
    """

    fail: bool = False
    die: str = ""  # the process that creates this file is killed

    revision: ClassVar[int] = 1
    norms: ClassVar[tuple[Norm, ...]] = (Norm.LINF,)
    accesses: ClassVar[tuple[Access, ...]] = (Access.FULL, Access.TRANSFER)
    unbounded: ClassVar[bool] = False

    def __call__(
        self, view: View, x: Tensor, y: Tensor, *, threat: ThreatModel, rng: Rng
    ) -> Tensor:
        note("attack", x)
        wait_while(lambda: processes() < int(os.environ.get("LOGGED_BY", "1")))
        gate = Path(os.environ["LOGGED"] + ".gate")
        if gate.exists() and attacks() > 1:
            note("halt")
            wait_while(gate.exists)
        if self.fail:
            raise ValueError("this attack fails")
        if self.die and processes() > 1:
            try:
                Path(self.die).touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        return (x + threat.radius * (2 * rng.uniform_like(x) - 1)).clamp(0, 1)

    def calls(self, *, stochastic: bool, classes: int) -> Calls:
        return Calls()


@dataclass(frozen=True)
class LoggedNoise:
    """Gaussian noise; the judge calls it, since the attack asks nothing.

    Every process tries it on a few images before it begins: that is no work done again.
    """

    revision: ClassVar[int] = 1
    stochastic: ClassVar[bool] = True
    differentiable: ClassVar[bool] = True

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        if len(x) > TRIED:
            note("judge", x)
        return x + 0.3 * rng.normal_like(x)


@dataclass(frozen=True)
class LoggedCnn(SmallCnn):
    """The small network; says when its training begins."""

    def start(self, task: Task) -> Training:
        note("train")
        return super().start(task)

"""Workers on this machine: one process a slot, each with a GPU. Imports no torch by itself.

It uses the standard library's processes and not its pool: the pool stops all workers as soon
as one of them is killed.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import (
    ForkServerContext,
    ForkServerProcess,
    SpawnContext,
    SpawnProcess,
)

from bench.errors import BenchError, UsageError
from bench.executors.task import WorkerTask, work
from bench.results.progress import Progress, Work

_LOOK_EVERY_S = 1.0
_LIVES = 4  # starts of a slot: what kills a worker may kill the next one too
_GRACE_S = 10.0
# Imported once for all workers, by a server that forks each of them: seconds and memory less.
# None of them opens a GPU when it is imported, and none is a plugin.
_SHARED = ["torch", "pyarrow.parquet", "bench.executors.worker", "bench.results.watching"]

_Process = ForkServerProcess | SpawnProcess


@dataclass(frozen=True)
class Slot:
    """A place for a worker: its number, the GPUs it may see, and its device."""

    number: int
    visible: str
    device: str


def slots(device: str, jobs: int | None, *, gpus: int) -> list[Slot]:
    """Assign the GPUs to workers, in turn where there are more workers; raises UsageError.

    ``gpus`` is the number that torch sees. Without ``jobs`` there is one worker per GPU, or one
    per CPU core.
    """
    cpu = device == "cpu" or (device == "auto" and gpus == 0)
    if cpu:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
        return [Slot(k, "", "cpu") for k in range(jobs or cores or os.cpu_count() or 1)]
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    visible = named.split(",")[:gpus] if named else [str(k) for k in range(gpus)]
    if device.startswith("cuda:"):
        visible = [visible[int(device.removeprefix("cuda:"))]]
    if not visible:
        raise UsageError("there is no GPU for the workers. Use --device cpu.")
    return [Slot(k, visible[k % len(visible)], "cuda") for k in range(jobs or len(visible))]


def run_local(
    task: WorkerTask,
    where: list[Slot],
    *,
    look: Callable[[], Progress],
    complain: Callable[[str], None],
) -> Work[None]:
    """Let workers do a task, replacing those that die; raises BenchError where all do.

    ``look`` reads from the results folder how far all of them are. Closing this generator ends
    the workers; what they finished is kept.
    """
    workers: dict[Connection, tuple[Slot, _Process]] = {}
    started: Counter[int] = Counter()
    done, seen, looking = 0, 0.0, 0.0

    def start(slot: Slot) -> None:
        started[slot.number] += 1
        said, process = _start(replace(task, device=slot.device), slot)
        workers[said] = (slot, process)

    try:
        yield look()  # downloads missing data once, before every worker would
        for slot in where:
            start(slot)
        while workers:
            if time.monotonic() - seen > 10 * looking:  # checking must not be the main work
                begun = time.monotonic()
                yield look()
                seen = time.monotonic()
                looking = seen - begun
            for said in wait(list(workers), timeout=_LOOK_EVERY_S):
                assert isinstance(said, Connection)
                slot, process = workers[said]
                try:
                    message = json.loads(said.recv())
                except EOFError:
                    del workers[said]
                    said.close()
                    process.join()
                    if process.exitcode == 0:
                        done += 1
                        continue
                    again = started[slot.number] < _LIVES
                    complain(_obituary(slot, process.exitcode, again))
                    if again:
                        start(slot)
                    continue
                if "error" in message:
                    raise BenchError(message["error"])
                complain(message["said"])
        if not done:
            raise BenchError(
                "all workers died repeatedly. Use fewer --jobs if memory is short, or run "
                "without --executor to see the error. What is finished is kept."
            )
        yield look()
    finally:
        _end([process for _, process in workers.values()])


def _obituary(slot: Slot, code: int | None, again: bool) -> str:
    how = f"exit code {code}"
    if code is not None and code < 0:
        how = signal.Signals(-code).name
        if -code == signal.SIGKILL:
            how += ", usually because memory ran out"
    then = "it is started again" if again else "the other workers take over its work"
    return f"worker {slot.number} died ({how}): {then}."


def _context() -> ForkServerContext | SpawnContext:
    if sys.platform != "linux":  # elsewhere libraries may not survive a fork
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_SHARED)
    return context


def _start(task: WorkerTask, slot: Slot) -> tuple[Connection, _Process]:
    context = _context()
    ours, theirs = context.Pipe(duplex=False)
    environ = {**os.environ, "CUDA_VISIBLE_DEVICES": slot.visible}
    name = f"bench worker {slot.number}"
    process = context.Process(target=_work, args=(task.text(), environ, theirs), name=name)
    process.start()
    theirs.close()
    return ours, process


def _end(processes: list[_Process]) -> None:
    for process in processes:
        process.terminate()
    until = time.monotonic() + _GRACE_S
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()


def _work(text: str, environ: dict[str, str], said: Connection) -> None:
    """Run a worker: the first thing that a new process does, before it opens a GPU."""
    os.environ.clear()  # a server that forks has the environment of when it started
    os.environ.update(environ)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    # No SystemExit, which is an error of the plugin that raises it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        work(
            WorkerTask.read(text),
            report=False,
            complain=lambda line: said.send(json.dumps({"said": line})),
        )
    except BenchError as error:
        said.send(json.dumps({"error": str(error)}))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGTERM)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)

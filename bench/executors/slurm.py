"""Workers as an array of Slurm jobs, through submitit. Imports no torch by itself."""

from __future__ import annotations

import getpass
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from types import FrameType
from typing import Any

from bench.errors import BenchError, UsageError
from bench.executors.task import WorkerTask, work
from bench.results.files import read_json, write_json
from bench.results.store import Store

_MINUTES = 60  # of a job without --slurm time=; it is requeued after that
_REQUEUES = 100  # after a time limit; there is no limit after preemption
_WARNING_S = 30  # between Slurm's signal and the end


class _Worker:
    """A worker of an array; when Slurm takes its node away, it is queued again."""

    def __call__(self, text: str) -> None:
        """Work, reporting to the job's log; raises BenchError."""
        task = WorkerTask.read(text)
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, _interrupting(signal.getsignal(number)))
        try:
            work(task, report=True, complain=_log)
        except KeyboardInterrupt:  # queued again
            sys.exit(-1)

    def checkpoint(self, text: str) -> Any:
        """Continue from what the results folder has."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, text)


def _interrupting(handler: Any) -> Any:
    """Make submitit's handler raise KeyboardInterrupt: SystemExit is an error of a plugin."""

    def handle(number: int, frame: FrameType | None) -> None:
        try:
            handler(number, frame)
        except SystemExit:
            raise KeyboardInterrupt from None

    return handle if callable(handler) else handler


def _log(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def parse_options(pairs: Sequence[str]) -> dict[str, str | int]:
    """Read ['partition=gpu', 'time=240', ...]; raises UsageError."""
    found: dict[str, str | int] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        name = name.strip().lstrip("-").replace("-", "_")
        if not equals or not name.isidentifier() or not value:
            raise UsageError(
                f"--slurm {pair} is not understood. Write NAME=VALUE with a name that sbatch "
                "knows, such as --slurm partition=gpu --slurm gpus_per_node=1 --slurm time=240."
            )
        found[name] = int(value) if value.isdecimal() else value
    if not isinstance(found.get("time", 0), int):
        raise UsageError(f"--slurm time={found['time']}: give the minutes, such as time=240.")
    return found


def check_ready() -> None:
    """Check that jobs can be submitted from here, before any work; raises BenchError."""
    if find_spec("submitit") is None:
        raise BenchError(
            "--executor slurm needs submitit. Install it: pip install 'purifybench[slurm]'."
        )
    if shutil.which("sbatch") is None:
        raise BenchError(
            "there is no sbatch on this machine. Submit from a login node of the cluster, or "
            "use --executor local."
        )


def submit(
    task: WorkerTask, *, jobs: int, options: Mapping[str, str | int], store: Store
) -> str:
    """Submit workers to the queue and return the array's job number; raises BenchError."""
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    executor = SlurmExecutor(store.jobs, max_num_timeout=_REQUEUES)
    known = executor._valid_parameters()  # the others go to sbatch as they are
    given = {"job_name": "bench", "time": _MINUTES, "signal_delay_s": _WARNING_S, **options}
    more = {name.replace("_", "-"): given[name] for name in given if name not in known}
    given = {name: value for name, value in given.items() if name in known}
    executor.update_parameters(**given, additional_parameters={"requeue": True, **more})
    try:
        sent = executor.map_array(_Worker(), [task.text()] * jobs)
    except (FailedSubmissionError, FailedJobError) as error:
        raise BenchError(f"sbatch refused the jobs: {error}") from error
    job = str(sent[0].job_id).partition("_")[0]
    note = {"job": job, "workers": jobs, "run": task.run, "command": list(task.command)}
    write_json(store.jobs / f"{job}.json", note)
    return job


def queued(store: Store) -> dict[str, dict[str, int]] | None:
    """Count the workers of each submitted array by Slurm's state; None without Slurm."""
    if shutil.which("squeue") is None:
        return None
    sent = sorted(read_json(path)["job"] for path in store.jobs.glob("[0-9]*.json"))
    if not sent:
        return {}
    asked = ["squeue", "--noheader", "--array", f"--user={getpass.getuser()}"]
    done = subprocess.run(
        [*asked, "--format=%F %T"], capture_output=True, text=True, check=False, timeout=60
    )
    if done.returncode:
        raise BenchError(f"squeue failed: {done.stderr.strip()}. Is Slurm reachable from here?")
    found: dict[str, dict[str, int]] = {job: {} for job in sent}
    for line in done.stdout.splitlines():
        job, _, state = line.partition(" ")
        if job in found:
            found[job][state.lower()] = found[job].get(state.lower(), 0) + 1
    return found

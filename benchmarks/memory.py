"""The peak memory of a piece of work in a process of its own, without what was there before."""

from __future__ import annotations

import importlib
import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


def peak(function: str, **arguments: Any) -> float:
    """Return MiB that ``module:function`` needs: it prepares and returns what is measured.

    The arguments are JSON values. Raises RuntimeError where the process fails.
    """
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", function, json.dumps(arguments)],
        cwd=Path(__file__).resolve().parents[1],
        capture_output=True,
        text=True,
        check=False,
        # Large blocks straight from the system and back: what is freed no longer counts.
        env={**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "16384"},
    )
    if done.returncode:
        raise RuntimeError(f"{function} failed in its process: {done.stderr.strip()}")
    return float(done.stdout)


def _measured(function: str, arguments: dict[str, Any]) -> float:
    module, _, name = function.partition(":")
    work = getattr(importlib.import_module(module), name)(**arguments)
    before = _resident()
    if _RESET.is_file():
        _RESET.write_text("5")  # the peak starts again from here
    work()
    return _highest() - before


def _resident() -> float:
    return _field("VmRSS") if _STATUS.is_file() else _highest()


def _highest() -> float:
    """Return the peak; the one of getrusage would begin at that of the parent on Linux."""
    if _STATUS.is_file():
        return _field("VmHWM")
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kibibytes / (2**20 if sys.platform == "darwin" else 2**10)


def _field(name: str) -> float:
    found = re.search(rf"{name}:\s+(\d+) kB", _STATUS.read_text())
    assert found is not None
    return int(found[1]) / 1024


if __name__ == "__main__":
    sys.stdout.write(str(_measured(sys.argv[1], json.loads(sys.argv[2]))))

"""Where and on what a command works: folders and the device."""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import torch

from bench.errors import UsageError
from bench.results.store import Store


@dataclass(frozen=True)
class Workspace:
    """The results folder, the data folder, the folder of RobustBench's files, the device.

    ``run`` names the command at work, the same in all of its processes: what failed in it once
    is not tried again.
    """

    store: Store
    data: Path
    zoo: Path
    device: torch.device
    run: str = field(default_factory=lambda: uuid.uuid4().hex)


def open_device(name: str) -> torch.device:
    """Resolve 'auto', 'cpu', 'cuda' or 'cuda:1' and make it repeatable; raises UsageError."""
    wanted = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise UsageError(
            f"no device is called '{name}'. Write auto, cpu, cuda or cuda:1."
        ) from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device '{name}' is not supported. Write auto, cpu, cuda or cuda:1.")
    if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        # Sums over threads round differently with their number: with one thread the rows are
        # the same on every machine, and two jobs on two cores do not wait for each other.
        torch.set_num_threads(1)
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise UsageError(
                f"device '{name}' is not there: torch sees {count} CUDA devices. Use --device "
                "cpu, or run `bench doctor` to see why."
            )
        if device.index is not None:  # libraries allocate on the current device, not on x's
            torch.cuda.set_device(device)
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
    return device

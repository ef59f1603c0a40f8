"""Where and on what a command works: folders and the device."""

from __future__ import annotations

import os
import re
import uuid
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import torch

from bench.core.device import lacks_memory, lost
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
        _require_gpu(name, device.index or 0)
        if device.index is not None:  # libraries allocate on the current device, not on x's
            torch.cuda.set_device(device)
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        # cuBLAS finds its context by itself; to do so here would begin work on the GPU.
        warnings.filterwarnings("ignore", message=".*there was no current CUDA context")
    return device


def device_fault(error: BaseException) -> str | None:
    """Say what to do about an error that a GPU raised; None for any other error."""
    if lacks_memory(error):
        return (
            "the GPU's memory is full. Another process may use it (nvidia-smi shows which): "
            "wait for it, choose another GPU (--device cuda:1), a smaller --shard or fewer "
            "draws, or use --device cpu."
        )
    if "no kernel image is available" in str(error):
        return (
            f"torch {torch.__version__} has no kernels for this GPU. Install a torch that is "
            "built for it, or use --device cpu."
        )
    if lost(error):
        return (
            f"the GPU failed: {str(error).splitlines()[0]}. Start the same command again, "
            "which goes on where it stopped; if it fails there again, use --device cpu."
        )
    return None


def _require_gpu(name: str, number: int) -> None:
    """Raise UsageError where a GPU is missing, or this torch cannot compute on it.

    Begins nothing on it: each process does that for itself.
    """
    cpu = "or use --device cpu"
    if torch.version.cuda is None and torch.version.hip is None:
        raise UsageError(
            f"device '{name}' needs a torch with CUDA, and torch {torch.__version__} is built "
            f"without it. Install one from https://pytorch.org/get-started/locally, {cpu}."
        )
    count = torch.cuda.device_count()
    if number >= count:
        raise UsageError(
            f"device '{name}' is not there: torch sees {count} CUDA devices. Use --device "
            "cpu, or run `bench doctor` to see why."
        )
    major, minor = torch.cuda.get_device_capability(number)
    if not _has_kernels(torch.cuda.get_arch_list(), major, minor):
        raise UsageError(
            f"torch {torch.__version__} has no kernels for device '{name}' "
            f"({torch.cuda.get_device_name(number)}, sm_{major}{minor}). Install a torch that "
            f"is built for it, {cpu}."
        )


def _has_kernels(built: list[str], major: int, minor: int) -> bool:
    """Whether kernels for these architectures run on a GPU, or can be compiled for it.

    Those of an ``sm_`` run on later minors of its major, a ``compute_`` on all that is later.
    """
    for arch in built:
        kind, _, number = arch.partition("_")
        made = re.match(r"\d+", number)
        if not made:
            return True  # of another vendor, whose names are others
        theirs = divmod(int(made[0]), 10)
        if kind == "compute" and theirs <= (major, minor):
            return True
        if kind == "sm" and theirs[0] == major and theirs[1] <= minor:
            return True
    return not built

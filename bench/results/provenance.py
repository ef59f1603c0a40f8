"""How a result came about: commit, versions, device, memory. Imports no torch by itself."""

from __future__ import annotations

import datetime
import functools
import json
import platform
import re
import resource
import shlex
import subprocess
import sys
from collections import Counter
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import __version__
from bench.plugins.catalogue import distributions, sources

if TYPE_CHECKING:
    import torch

# Flag of a cell whose defense draws from other streams than an image's own: its noise can be
# repeated, but depends on the block.
BY_BLOCK = "noise by block"


def origin() -> dict[str, Any]:
    """Describe command, date and source: JSON values, without paths, host or user names."""
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "command": _command(),
        "commit": _commit(),
        "versions": {**_versions(), **distributions},
        **({"sources": dict(sources)} if sources else {}),
    }


def provenance(device: torch.device) -> dict[str, Any]:
    """Describe this process as ``origin`` does, with its device, memory and rows per pass.

    The rows are those in force now: fewer than at the start where the memory held no more. The
    memory is the most that a GPU held since the last description, or this process on a CPU.
    """
    from bench.core.batch_size import rows_per_pass

    about = origin()
    return {
        **about,
        "versions": {**about["versions"], **_device_versions(device)},
        "device": _device_name(device),
        "peak memory MiB": _peak_memory(device),
        "rows per pass": rows_per_pass(device),
    }


def _command() -> str:
    """Repeat the command line, absolute paths cut to their last part: results are shared."""
    words = [Path(sys.argv[0]).name]
    for word in sys.argv[1:]:
        # '/a/b', '--results=/a/b', '-o/a/b' and 'timm:resnet18=/a/b', but not '8/255' or
        # 'plans/mnist.yaml'
        words.append(re.sub(r"(^-\w|^|=)(/[^=]*)", _cut, word))
    return shlex.join(words)


def _cut(found: re.Match[str]) -> str:
    return found[1] + Path(found[2]).name


@functools.cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "purifybench": __version__}
    for name in ("torch", "torchvision", "numpy", "pillow", "pyautoattack", "robustbench"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@functools.cache
def _device_versions(device: torch.device) -> dict[str, str]:
    """Name the versions of CUDA, cuDNN and the driver, on which the last bits depend."""
    if device.type != "cuda":
        return {}
    import torch

    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]  # torch's has no types
    found = {"cuda": str(torch.version.cuda), "cudnn": str(cudnn)}
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
        found["driver"] = done.stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        pass
    return found


@functools.cache
def _commit() -> str | None:
    """Name the commit of the source, with '+' where files differ from it."""
    source = Path(__file__).resolve().parents[1]  # bench, beside attacks and defenses

    def git(*args: str) -> str:
        done = subprocess.run(
            ["git", *args], cwd=source, capture_output=True, text=True, timeout=10, check=True
        )
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # else an environment in a repository
        changed = git("status", "--porcelain", "--", ".", "../attacks", "../defenses")
        return git("rev-parse", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return _installed_commit()


def _installed_commit() -> str | None:
    """Name the commit that pip installed from a repository (PEP 610)."""
    try:
        about = json.loads(distribution("purifybench").read_text("direct_url.json") or "{}")
    except PackageNotFoundError:
        return None
    commit = about.get("vcs_info", {}).get("commit_id")
    return None if commit is None else str(commit)


def _device_name(device: torch.device) -> str:
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu {platform.machine()}, {torch.get_num_threads()} threads"


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        import torch

        peak = int(torch.cuda.max_memory_allocated(device))
        torch.cuda.reset_peak_memory_stats(device)  # the next block is described by its own
        return peak // 2**20
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(kibibytes) // (2**20 if sys.platform == "darwin" else 2**10)


def joined(shards: list[dict[str, Any]]) -> dict[str, Any]:
    """Add the costs of all shards up; what describes the process is the last shard's."""
    whole = dict(shards[-1])
    for name in ("attack passes", "judge passes"):
        whole[name] = dict(sum((Counter(shard[name]) for shard in shards), Counter()))
    for name in ("attack seconds", "judge seconds"):
        whole[name] = round(sum(shard[name] for shard in shards), 3)
    whole["peak memory MiB"] = max(shard["peak memory MiB"] for shard in shards)
    # Cells that were begun before this was recorded have shards without it.
    rows = [shard["rows per pass"] for shard in shards if "rows per pass" in shard]
    if rows:
        whole["rows per pass"] = min(rows)
    whole["flags"] = sorted({flag for shard in shards for flag in shard["flags"]})
    whole["devices"] = sorted({shard["device"] for shard in shards})
    del whole["device"]
    return whole

"""bench doctor: what works and what does not, each with what to do.

torch is imported at the call, so that ``bench --help`` never waits for it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from bench.commands.options import DATA, RESULTS, Data, Results
from bench.commands.shared import say
from bench.data.datasets import DATASETS
from bench.errors import BenchError, DataError, PluginError
from bench.results.store import Store

if TYPE_CHECKING:
    import torch

_PYTHON = ((3, 11), (3, 14))  # the first that works, the first that is not tested
_PYAUTOATTACK = "0.2.0"
_ROOM_GB = 2.0  # adversarial images of a CIFAR-10 run with a dozen cells, in float32


@dataclass(frozen=True)
class Finding:
    """One fact: its subject, whether it is a problem, what was found and what to do."""

    subject: str
    state: Literal["ok", "warn", "fail"]
    found: str
    todo: str = ""


def doctor(
    results: Results = RESULTS,
    data: Data = DATA,
) -> None:
    """Check Python, torch, CUDA, RobustBench, data sets, checkpoints and plugins."""
    findings = diagnose(data_root=data, results=results)
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        say(f"{finding.state:<4}  {finding.subject:<{width}}  {finding.found}")
        if finding.todo:
            say(f"{'':<4}  {'':<{width}}  -> {finding.todo}")
    if any(finding.state == "fail" for finding in findings):
        raise typer.Exit(1)


def diagnose(*, data_root: Path, results: Path) -> list[Finding]:
    """Look at interpreter, libraries, disk, data sets, checkpoints and plugins.

    Never raises for what it finds, and writes nothing.
    """
    checks: list[Callable[[], Finding]] = [
        _python, _torch, _cuda, _torchvision, _pyautoattack, _robustbench,
        lambda: _disk(results),
    ]  # fmt: skip
    return [
        *(check() for check in checks),
        *(_dataset(name, data_root) for name in DATASETS),
        *(_checkpoint(path) for path in Store(results).checkpoints()),
        *_plugins(),
    ]


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    oldest, untested = _PYTHON
    if sys.version_info < oldest:
        return Finding("Python", "fail", found, "Use Python 3.11, 3.12 or 3.13.")
    if sys.version_info >= untested:
        return Finding("Python", "warn", found, "Not tested: use 3.11, 3.12 or 3.13.")
    return Finding("Python", "ok", found)


def _torch() -> Finding:
    try:
        import torch
    except Exception as error:  # a broken build raises OSError as well as ImportError
        return Finding("torch", "fail", _line(error), "pip install 'torch>=2.6' torchvision")
    version = torch.__version__
    if tuple(int(part) for part in version.split(".")[:2]) < (2, 6):
        return Finding("torch", "fail", version, "pip install -U 'torch>=2.6' torchvision")
    return Finding("torch", "ok", version)


def _cuda() -> Finding:
    try:
        import torch

        if torch.cuda.is_available():
            return _gpus()
        if torch.version.cuda is None and shutil.which("nvidia-smi"):
            return Finding(
                "devices", "warn", "an NVIDIA driver, and a torch without CUDA",
                "Install torch with CUDA: see https://pytorch.org/get-started/locally/",
            )  # fmt: skip
    except Exception as error:  # no torch, or a driver that it cannot talk to
        return Finding("devices", "warn", _line(error), "Repair torch or the driver.")
    return Finding("devices", "ok", "no CUDA: runs on the CPU")


def _gpus() -> Finding:
    """Name the GPUs, each with what it says to a convolution and its gradient."""
    import torch

    said, broken = [], False
    for number in range(torch.cuda.device_count()):
        said.append(torch.cuda.get_device_name(number))
        try:
            _convolve(torch.device("cuda", number))
        except RuntimeError as error:  # a driver, cuDNN or torch that do not fit each other
            said[-1] += f" fails in a convolution ({_line(error)})"
            broken = True
    if broken:
        todo = "Install a torch that fits driver and GPU, or use --device cpu."
        return Finding("devices", "warn", ", ".join(said), todo)
    return Finding("devices", "ok", ", ".join(said))


def _convolve(device: torch.device) -> None:
    """Do one convolution and its gradient, and wait for them; raises RuntimeError."""
    import torch

    x = torch.ones(1, 1, 8, 8, device=device, requires_grad=True)
    out = torch.conv2d(x, torch.ones(1, 1, 3, 3, device=device)).sum()
    (gradient,) = torch.autograd.grad(out, x)
    float(gradient.sum())


def _torchvision() -> Finding:
    todo = "Install the pair together: pip install -U torch torchvision"
    try:
        # A CPU-only torch with the published torchvision fails here: "torchvision::nms".
        torchvision = importlib.import_module("torchvision")
    except Exception as error:  # RuntimeError for a torchvision made for another torch
        return Finding("torchvision", "fail", _line(error), todo)
    return Finding("torchvision", "ok", str(torchvision.__version__))


def _pyautoattack() -> Finding:
    install = f"pip install pyautoattack=={_PYAUTOATTACK}"
    found = _version("pyautoattack")
    if found is None:
        return Finding("pyautoattack", "fail", "not installed", install)
    if found != _PYAUTOATTACK:
        return Finding("pyautoattack", "warn", f"{found}, not tested", install)
    return Finding("pyautoattack", "ok", found)


def _robustbench() -> Finding:
    found = _version("robustbench")
    if found is None:
        return Finding(
            "robustbench", "warn", "not installed: no classifiers of its zoo",
            "pip install 'purifybench[robustbench]'",
        )  # fmt: skip
    if importlib.util.find_spec("pkg_resources") is None:
        setuptools = _version("setuptools") or "none"
        return Finding(
            "robustbench", "warn",
            f"{found}, but pkg_resources is missing (setuptools {setuptools})",
            'pip install "setuptools<82"',
        )  # fmt: skip
    return Finding("robustbench", "ok", found)


def _disk(results: Path) -> Finding:
    folder = results.absolute()
    while not folder.exists():  # a folder of results is made by the first run
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 1e9
    found = f"{free:.1f} GB free in {folder}"
    if free < _ROOM_GB:
        return Finding("disk", "warn", found, "Free space, or choose another --results.")
    return Finding("disk", "ok", found)


def _dataset(name: str, root: Path) -> Finding:
    from bench.data.load import find_files

    subject = f"data {name}"
    try:
        md5s = find_files(name, root=root)
    except DataError as error:
        damaged = "damaged" in str(error)
        return Finding(subject, "fail" if damaged else "warn", _sentence(error), _advice(error))
    if not md5s:
        return Finding(subject, "ok", "embedded in scikit-learn")
    shown = ", ".join(f"{file} {md5}" for file, md5 in md5s.items())
    return Finding(subject, "ok", f"md5 as published: {shown}")


def _checkpoint(path: Path) -> Finding:
    from bench.models.checkpoints import load_checkpoint

    subject = f"checkpoint {path.parent.name}/{path.stem}"
    try:
        _, digest = load_checkpoint(path)
    except BenchError as error:
        return Finding(subject, "fail", _sentence(error), _advice(error))
    return Finding(subject, "ok", f"sha256 {digest}")


def _plugins() -> list[Finding]:
    from bench.core.registry import KINDS, blocked, catalogue, plugin

    findings, loaded = [], 0
    for kind in KINDS:
        for name in [*catalogue(kind), *blocked(kind)]:
            try:
                plugin(kind, name)
                loaded += 1
            except PluginError as error:
                findings.append(
                    Finding(f"plugin {name}", "fail", _sentence(error), _advice(error))
                )
    return [*findings, Finding("plugins", "ok", f"{loaded} load")]


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split()).partition(". ")[0]


def _advice(error: Exception) -> str:
    return " ".join(str(error).split()).partition(". ")[2]


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]

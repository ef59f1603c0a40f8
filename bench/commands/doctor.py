"""bench doctor: what works and what does not, each with what to do.

What it vouches for it has imported, in a process of its own with a time limit, since a broken
library may raise, crash, end the process or hang. What is slow to import, as torch is, is
imported at the call, so that ``bench --help`` never waits for it.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from bench.commands.import_apart import import_apart
from bench.commands.options import DATA, RESULTS, Data, Results
from bench.commands.shared import say
from bench.errors import BenchError, DataError, PluginError

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
    """Look at interpreter, command, libraries, disk, data sets, checkpoints and plugins.

    Never raises for what it finds, and writes nothing.
    """
    from bench.data.datasets import DATASETS
    from bench.results.store import Store

    checks: dict[str, Callable[[], Finding | list[Finding]]] = {
        "Python": _python, "command": _command, "torch": _torch, "devices": _cuda,
        "torchvision": _torchvision, "pyautoattack": _pyautoattack,
        "robustbench": _robustbench, "disk": lambda: _disk(results),
        "data": lambda: [_dataset(name, data_root) for name in DATASETS],
        "checkpoints": lambda: [_checkpoint(path) for path in Store(results).checkpoints()],
        "plugins": _plugins,
    }  # fmt: skip
    findings: list[Finding] = []
    for subject, check in checks.items():
        try:
            found = check()
        except Exception as error:  # whatever a broken library or folder raises
            found = Finding(subject, "fail", _line(error), "Repair what is named here.")
        findings += found if isinstance(found, list) else [found]
    return findings


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    oldest, untested = _PYTHON
    if sys.version_info < oldest:
        return Finding("Python", "fail", found, "Use Python 3.11, 3.12 or 3.13.")
    if sys.version_info >= untested:
        return Finding("Python", "warn", found, "Not tested: use 3.11, 3.12 or 3.13.")
    return Finding("Python", "ok", found)


def _command() -> Finding:
    """Find out whose script ``bench`` is: another distribution may install one too."""
    points = importlib.metadata.entry_points(group="console_scripts", name="bench")
    owners = {f"{p.dist.name} {p.dist.version}" if p.dist else p.value for p in points}
    path = shutil.which("bench")
    if path is None:
        return Finding(
            "command", "warn", "`bench` is not on the PATH", "Activate its environment."
        )
    ours = "bench.__main__" in Path(path).read_text(errors="replace")
    found = f"{path} is {'purifybench' if ours else 'of something else'}"
    if len(owners) > 1:
        found += f"; {' and '.join(sorted(owners))} install one"
    if ours and len(owners) < 2:
        return Finding("command", "ok", found)
    todo = "Uninstall the other one, then: pip install --force-reinstall --no-deps purifybench"
    return Finding("command", "warn" if ours else "fail", found, todo)


def _torch() -> Finding:
    install = "pip install -U 'torch>=2.6' torchvision"
    if fault := _fault("torch"):
        return Finding("torch", "fail", fault, install)
    import torch

    version = torch.__version__
    if tuple(int(part) for part in version.split(".")[:2]) < (2, 6):
        return Finding("torch", "fail", version, install)
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
    # A CPU-only torch with the published torchvision fails here: "torchvision::nms".
    if fault := _fault("torchvision"):
        todo = "Install the pair together: pip install -U torch torchvision"
        return Finding("torchvision", "fail", fault, todo)
    return Finding("torchvision", "ok", _version("torchvision") or "no version")


def _pyautoattack() -> Finding:
    install = f"pip install pyautoattack=={_PYAUTOATTACK}"
    found = _version("pyautoattack")
    if found is None:
        return Finding("pyautoattack", "fail", "not installed", install)
    if fault := _fault("pyautoattack"):
        return Finding("pyautoattack", "fail", f"{found}: {fault}", install)
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
    fault = _fault("robustbench")
    if others := _writers("robustbench"):
        return Finding(
            "robustbench", "fail" if fault else "warn",
            f"{found}, parts of which {' and '.join(others)} wrote{fault and f': {fault}'}",
            f"pip uninstall {' '.join(one.split()[0] for one in others)}, then: "
            "pip install --force-reinstall --no-deps robustbench",
        )  # fmt: skip
    if fault:
        return Finding(
            "robustbench", "warn", f"{found} cannot be imported: {fault}",
            "Repair what is named here, or: pip install -U 'purifybench[robustbench]'",
        )  # fmt: skip
    return Finding("robustbench", "ok", found)


def _fault(module: str) -> str:
    """Say why a module cannot be imported; empty where it can."""
    said, end = import_apart("module", module)
    return said[0] if said else end


def _writers(package: str) -> list[str]:
    """Name the distributions that write into a package of another name."""
    found = {
        f"{one.name} {one.version}"
        for one in importlib.metadata.distributions()
        if one.name != package and f"\n{package}/" in f"\n{one.read_text('RECORD') or ''}"
    }
    return sorted(found)


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
    from bench.data.published import find_files

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
    from bench.plugins.catalogue import KINDS, blocked, catalogue, plugin

    findings: list[Finding] = []
    points = []
    for kind in KINDS:
        points += list(catalogue(kind).items())
        for name in blocked(kind):
            try:
                plugin(kind, name)  # says who claims it
            except PluginError as error:
                findings.append(
                    Finding(f"plugin {name}", "fail", _sentence(error), _advice(error))
                )
    loaded = 0
    left: Sequence[tuple[str, importlib.metadata.EntryPoint]] = points
    while left:
        names = [(point.group.removeprefix("bench."), name) for name, point in left]
        said, end = import_apart("plugins", json.dumps(names))
        if len(said) < len(left):  # the next one ended it
            name, point = left[len(said)]
            owner = f"{point.dist.name} {point.dist.version}" if point.dist else point.value
            said.append(f"{end}: '{name}' of {owner}. Repair or uninstall that distribution.")
        for (name, _), fault in zip(left, said, strict=False):
            loaded += not fault
            if fault:
                todo = fault.partition(". ")[2]
                line = " ".join(fault.partition(". ")[0].split())[:300]
                findings.append(Finding(f"plugin {name}", "fail", line, todo))
        left = left[len(said) :]
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

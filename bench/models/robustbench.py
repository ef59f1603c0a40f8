"""Classifiers of the RobustBench zoo, from files that are checked before they are loaded.

The zoo reads ``{model_dir}/{dataset}/{threat}/{name}.pt`` and never checks it: a page of Google
Drive saved as ``.pt`` would fail at every load. robustbench takes seconds to import, so it is
imported at the first call.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import pickle
import sys
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.errors import BenchError, CheckpointError, UsageError, unknown_name
from bench.results.locks import alone

DATASETS = ("cifar10", "cifar100")
# How torch.save's format before 1.6 begins: a pickled constant; some zoo files still have it.
_LEGACY = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")


@dataclass(frozen=True)
class _ZooFile:
    """A checkpoint on disk, and where a person or gdown gets it."""

    path: Path
    url: str
    gdrive_id: str | None

    @property
    def steps(self) -> str:
        return f"By hand: open {self.url} in a browser and save the file as {self.path}."


def zoo_names(dataset: str, threat: str | None = None) -> list[str]:
    """List the zoo's classifiers for a data set, of one threat or of all; raises UsageError."""
    zoo = _threats(dataset)
    if threat is not None and threat not in zoo:
        raise unknown_name(f"RobustBench threat on {dataset}", threat, zoo)
    return sorted({name for key in zoo if threat in (None, key) for name in zoo[key]})


def find_threat(name: str, *, dataset: str, preferred: str = "Linf") -> str:
    """Find the threat that has a classifier, the preferred one first; raises UsageError."""
    zoo = _threats(dataset)
    for threat in sorted(zoo, key=lambda threat: threat != preferred):
        if name in zoo[threat]:
            return threat
    raise unknown_name(f"RobustBench {dataset} classifier", name, zoo_names(dataset))


def load_zoo_classifier(name: str, *, dataset: str, threat: str, model_dir: Path) -> nn.Module:
    """Load a classifier of the zoo in evaluation mode: (N, 3, 32, 32) in [0, 1] to logits.

    ``threat`` is Linf, L2 or corruptions. A missing file is downloaded; one that is no
    checkpoint is moved aside to ``<file>.bad``. Raises UsageError for unknown names or a
    missing robustbench, CheckpointError for a file that is not available or does not fit.
    """
    known = zoo_names(dataset, threat)
    if name not in known:
        raise unknown_name(f"RobustBench {dataset} {threat} classifier", name, known)
    folder = model_dir / dataset / threat
    files = _files(name, dataset, threat, folder)
    for file in files:
        if not file.path.is_file():
            with alone(file.path.with_name(f"{file.path.name}.download")):
                if not file.path.is_file():  # another process may have fetched it
                    _download(file)
        _check(file)
    try:
        with _quiet():
            model: nn.Module = import_robustbench().utils.load_model(
                name, model_dir=model_dir, dataset=dataset, threat_model=threat
            )
    except Exception as error:  # the code of one of 160 architectures may raise anything
        raise CheckpointError(
            f"{files[0].path} does not fit the RobustBench classifier '{name}': "
            f"{' '.join(str(error).split())[:300]} It may be another model's file: move it "
            f"away and it is downloaded again. {files[0].steps}"
        ) from error
    return model.eval()


def import_robustbench() -> Any:
    """Import robustbench and packages that it needs but does not declare; raises UsageError."""
    for module, line in (
        ("robustbench", "pip install 'purifybench[robustbench]'"),
        ("pkg_resources", 'pip install "setuptools<82"'),
    ):
        if importlib.util.find_spec(module) is None:
            raise UsageError(
                f"classifiers of the RobustBench zoo need the package {module}, which is not "
                f"installed. Install it: {line}"
            )
    try:
        with _quiet(), _autoattack_by_its_old_name():
            import robustbench
            import robustbench.utils
    except ImportError as error:
        raise BenchError(
            f"robustbench is installed but cannot be imported: {error}. "
            "Install it again: pip install --force-reinstall 'purifybench[robustbench]'"
        ) from error
    return robustbench


@contextlib.contextmanager
def _autoattack_by_its_old_name() -> Iterator[None]:
    """Let robustbench 1.1.1 find pyautoattack: it requires that and imports ``autoattack``."""
    if "robustbench" in sys.modules or importlib.util.find_spec("autoattack") is not None:
        yield
        return
    import pyautoattack
    import pyautoattack.state

    sys.modules["autoattack"] = pyautoattack
    sys.modules["autoattack.state"] = pyautoattack.state
    try:
        yield
    finally:
        del sys.modules["autoattack"], sys.modules["autoattack.state"]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide the prints and deprecation warnings of robustbench and timm."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _threats(dataset: str) -> dict[str, dict[str, dict[str, Any]]]:
    if dataset not in DATASETS:
        raise unknown_name("data set of RobustBench's zoo", dataset, DATASETS)
    zoo = import_robustbench().model_zoo.model_dicts
    (threats,) = (zoo[key] for key in zoo if key.value == dataset)
    return {threat.value: models for threat, models in threats.items()}


def _files(name: str, dataset: str, threat: str, folder: Path) -> list[_ZooFile]:
    """List the files a classifier is made of: one, one per member, or one of timm's."""
    source = _threats(dataset)[threat][name]["gdrive_id"]
    page = "https://drive.google.com/file/d/{}/view".format
    if source is None:
        timm = import_robustbench().utils.timm
        config = timm.models.get_pretrained_cfg(
            f"{name}_{dataset}_{threat}".lower().replace("-", "_")
        )
        cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(config.url).name
        return [_ZooFile(cached, config.url, None)]
    if isinstance(source, list):
        return [
            _ZooFile(folder / f"{name}.pt_m{i}.pt", page(key), key)
            for i, key in enumerate(source)
        ]
    return [_ZooFile(folder / f"{name}.pt", page(source), source)]


def _download(file: _ZooFile) -> None:
    """Fetch a missing file; it gets its name only once it is whole."""
    file.path.parent.mkdir(parents=True, exist_ok=True)
    part = file.path.with_name(f"{file.path.name}.part")
    utils = import_robustbench().utils
    try:
        # gdown's progress goes to stderr, where a download may be seen.
        with contextlib.redirect_stdout(sys.stderr):
            if file.gdrive_id is None:
                torch.hub.download_url_to_file(file.url, str(part))
            else:
                utils.download_gdrive_new(file.gdrive_id, part)
        os.replace(part, file.path)
    except Exception as error:  # no network, a quota, a page instead of a file
        part.unlink(missing_ok=True)
        raise CheckpointError(
            f"{file.path} does not exist and could not be downloaded "
            f"({type(error).__name__}: {' '.join(str(error).split())[:200]}). {file.steps}"
        ) from error


def _check(file: _ZooFile) -> None:
    """Raise CheckpointError unless the file holds tensors that torch reads as weights only."""
    fault = _fault(file.path)
    if fault is not None:
        bad = file.path.with_name(f"{file.path.name}.bad")
        os.replace(file.path, bad)
        raise CheckpointError(f"{file.path} was {fault}; it is now {bad}. {file.steps}")


def _fault(path: Path) -> str | None:
    """Describe a file that is no checkpoint; raises CheckpointError for foreign objects."""
    with path.open("rb") as stream:
        head = stream.read(512)
    if head.lstrip().startswith(b"<"):
        return (
            "a web page, not a checkpoint (Google Drive sends one when it refuses a download)"
        )
    zipped = head.startswith(b"PK")
    if not zipped and not head.startswith(_LEGACY):
        return "not written by torch.save" if head else "empty"
    if zipped and not zipfile.is_zipfile(path):
        return "cut off: a download that did not finish"
    try:
        with _quiet():
            torch.load(path, map_location="cpu", weights_only=True, mmap=zipped or None)
    except pickle.UnpicklingError as error:
        if "Unsupported" not in str(error):
            return f"damaged ({str(error).splitlines()[0]})"
        raise CheckpointError(
            f"{path} holds other objects than tensors, which could run any code when loaded. "
            "If you trust its source, keep only the tensors: torch.save(torch.load(path, "
            "weights_only=False)['state_dict'], path), or without ['state_dict'] where it has "
            "none."
        ) from error
    except Exception as error:  # torch raises EOFError, RuntimeError, KeyError and more
        return f"damaged ({type(error).__name__}: {str(error).splitlines()[0][:200]})"
    return None

"""What a call of ``bench.api`` asks: a request, the objects behind its names, the folders."""

from __future__ import annotations

import contextlib
import operator
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from bench.core.isolation import isolated
from bench.core.protocols import Pixels
from bench.core.threat import format_eps
from bench.data.arrays import pixels_of
from bench.data.datasets import dataset_info
from bench.data.given import giving
from bench.errors import PluginError, UsageError
from bench.plugins.catalogue import SINGULAR, Kind
from bench.plugins.names import OBJECTS
from bench.plugins.objects import Named, named
from bench.plugins.offered import Offered, offering
from bench.results.cell import Request
from bench.results.progress import Work, finish
from bench.results.store import Store
from bench.results.watching import watch
from bench.results.workspace import Workspace, open_device

Result = TypeVar("Result")
_COUNTS = {"seed", "draws", "shard"}
_TARGETS = tuple(SINGULAR[kind] for kind in ("defenses", "classifiers", "attacks"))


@dataclass(frozen=True)
class Folders:
    """Where results, data sets and RobustBench's files are, and the device."""

    results: Path
    data: Path
    zoo: Path
    device: str

    @classmethod
    def given(cls, *, results: Any, data: Any, zoo: Any, device: str | None) -> Folders:
        """Take what is given, else the variables and defaults of the command line."""
        return cls(
            _folder(results, ("BENCH_RESULTS",), "results"),
            _folder(data, ("BENCH_DATA",), "data"),
            _folder(zoo, ("BENCH_ZOO", "BENCH_MODELS"), "models"),
            device or os.environ.get("BENCH_DEVICE") or "auto",
        )


def _folder(given: Any, variables: tuple[str, ...], default: str) -> Path:
    found = given or next(filter(None, map(os.environ.get, variables)), default)
    try:
        return Path(found).expanduser().absolute()
    except RuntimeError:
        raise UsageError(f"the path {found} names a home folder that is not known.") from None


@dataclass(frozen=True, eq=False)
class Question:
    """A request, and what its names stand for; it can be asked again and again."""

    request: Request
    plugins: Offered
    images: Mapping[str, Pixels]
    folders: Folders

    @property
    def store(self) -> Store:
        """The results folder."""
        return Store(self.folders.results)

    @contextlib.contextmanager
    def at_work(self) -> Iterator[Workspace]:
        """Open folders and device; switches and generators of the process are put back."""
        where = self.folders
        try:
            with offering(self.plugins), giving(self.images), isolated(0):
                device = open_device(where.device)
                yield Workspace(Store(where.results), where.data, where.zoo, device)
        except SystemExit as error:
            raise PluginError(
                f"a plugin ended the process with status {error.code}. Take sys.exit and "
                "os._exit out of it."
            ) from error


def run(work: Work[Result], *, progress: bool) -> Result:
    """Run work to its end; whatever interrupts it, its claims are given back."""
    with contextlib.closing(work):
        return watch(work) if progress else finish(work)


def question(
    purifier: Any,
    classifier: Any,
    x: Any,
    y: Any,
    *,
    dataset: str | None,
    attack: Any,
    norm: Any,
    eps: Any,
    n: int | None,
    most: int | None,
    settings: Mapping[str, Mapping[str, Any]] | None,
    results: Any,
    data: Any,
    zoo: Any,
    device: str | None,
    **rest: Any,
) -> Question:
    """Check what is asked as the command line does, and name its objects; raises BenchError.

    Where n is not given, it is all images, or ``most`` of them.
    """
    folders = Folders.given(results=results, data=data, zoo=zoo, device=device)
    found: dict[Kind, Named] = {
        "defenses": named("defenses", purifier),
        "classifiers": named("classifiers", classifier),
        "attacks": named("attacks", attack),
    }
    images: dict[str, Pixels] = {}
    if (x is None or y is None) == (dataset is None):
        raise UsageError("give the images x with their labels y, or dataset, a name or a file.")
    if dataset is None:
        pixels = pixels_of(_array(x), _array(y), named=("x", "y"))
        dataset = f"{OBJECTS}:images_{pixels.digest[:8]}"
        images[dataset] = pixels
    if n is None:
        with giving(images):
            there = dataset_info(dataset).test_images
        n = there if most is None else min(most, there)
    for name in _COUNTS & rest.keys():
        rest[name] = _count(name, rest[name])
    request = Request.parse(
        defense=found["defenses"].name,
        classifier=found["classifiers"].name,
        attack=found["attacks"].name,
        dataset=dataset,
        norm=str(norm),
        eps=_written(eps),
        n=_count("n", n),
        settings=_settings(found, settings or {}),
        **rest,
    )
    plugins = {
        (str(kind), one.name.partition(":")[2]): one.plugin
        for kind, one in found.items()
        if one.plugin is not None
    }
    return Question(request, plugins, images, folders)


def _array(given: Any) -> Any:
    if not isinstance(given, Tensor):
        try:
            return given if hasattr(given, "dtype") else np.asarray(given)
        except ValueError:
            raise UsageError(
                "the images or labels are a list whose parts differ in length: give arrays."
            ) from None
    found = given.detach().cpu()
    return found.float() if found.dtype is torch.bfloat16 else found  # numpy has none


def _count(name: str, value: Any) -> int:
    try:
        return operator.index(value)  # also of numpy's integers
    except TypeError:
        raise UsageError(f"{name} is {value!r}: it has to be a whole number.") from None


def _written(eps: Any) -> str:
    if eps is None:
        return "inf"
    return format_eps(eps) if isinstance(eps, Fraction) else str(eps)


def _settings(
    found: Mapping[Kind, Named], given: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    if strange := sorted(map(str, set(given) - set(_TARGETS))):
        raise UsageError(
            f"settings of '{strange[0]}' are not known: write {{'attack': {{NAME: VALUE}}}}, "
            "'defense' or 'classifier'."
        )
    for name, one in given.items():
        if not isinstance(one, Mapping):
            raise UsageError(
                f"settings of '{name}' are {one!r}: write {{'{name}': {{PARAMETER: VALUE}}}}."
            )
    both = {
        SINGULAR[kind]: {**one.settings, **given.get(SINGULAR[kind], {})}
        for kind, one in found.items()
    }
    return {target: params for target, params in both.items() if params}

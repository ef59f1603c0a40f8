"""Describe one plugin for `bench show`."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.core.threat import format_eps
from bench.data.datasets import DATASETS, check_known, dataset_info
from bench.data.names import cell_name, trained_on
from bench.errors import BenchError, UsageError, unknown_name
from bench.models.checkpoints import complete, load_checkpoint, read_card
from bench.models.train import trained_as
from bench.models.trainable import MakesPurifier, Trainable
from bench.plugins.catalogue import SINGULAR, Kind, blocked, build, catalogue, plugin
from bench.plugins.names import ARCHITECTURES, ATTACK_LIBRARIES, kept, parsed
from bench.results.store import Store

_KINDS: tuple[Kind, ...] = ("defenses", "attacks", "classifiers")


def describe(name: str, *, dataset: str, results: Path) -> Iterator[str]:
    """Write a plugin's purpose, parameters, compatibility and checkpoints line by line."""
    dataset_info(dataset)
    if _is_dataset(name):
        yield from _dataset(name)
        return
    for number, kind in enumerate(_kinds_of(name)):
        if number:
            yield ""
        cls = plugin(kind, name)
        params = cls.recipe(cell_name(trained_on(dataset))) if hasattr(cls, "recipe") else {}
        made = build(kind, name, params)
        where = "" if parsed(name) else f", {cls.__module__}.{cls.__qualname__}"
        yield f"{kept(name)} ({SINGULAR[kind]}{where})"
        yield ""
        yield from (f"  {line}".rstrip() for line in (inspect.getdoc(cls) or "").splitlines())
        yield ""
        if source := vars(cls).get("source"):  # its own: who derives from it has another
            yield f"  source: {source}"
            yield ""
        yield f"  parameters on {dataset} (name: type = value):"
        yield from list(_parameters(made, SINGULAR[kind])) or ["    none"]
        yield ""
        yield f"  {_compatibility(kind, made)}"
        if isinstance(made, Trainable):
            yield ""
            yield f"  {_trained_on(name, made, dataset)}"
            yield from _checkpoints(kept(trained_as(name, made)), results)


def _is_dataset(name: str) -> bool:
    """Whether a name stands for images, and not for one of the kinds that have parameters."""
    if parsed(name):
        return False
    try:
        check_known(name)
    except BenchError:
        return False
    return not any(name in catalogue(kind) or name in blocked(kind) for kind in _KINDS)


def _dataset(name: str) -> Iterator[str]:
    info = dataset_info(name)
    yield f"{info.name} (data set)"
    yield ""
    yield f"  {info.summary}"
    yield ""
    channels, height, width = info.shape
    train = f"{info.train_images:,} to train on" if info.train_images else "none to train on"
    yield (
        f"  {info.test_images:,} images to test on, {train}; {channels} x {height} x {width}, "
        f"{info.classes} classes"
    )


def _kinds_of(name: str) -> list[Kind]:
    """List what a name stands for; raises BenchError where it is nothing."""
    if not parsed(name):
        kinds = [kind for kind in _KINDS if name in catalogue(kind) or name in blocked(kind)]
        if not kinds:
            known = [known for kind in _KINDS for known in catalogue(kind)]
            raise unknown_name("plugin", name, [*DATASETS, *known])
        return kinds
    typed = parsed(name)
    if typed and typed.source == "robustbench":
        raise UsageError(
            f"{name} is RobustBench's own and has no parameters here. `bench list zoo` says "
            "for which images and norm it was trained."
        )
    among: tuple[Kind, ...] = _KINDS
    if typed and typed.source in ATTACK_LIBRARIES:
        among = ("attacks",)
    if typed and typed.source in ARCHITECTURES:
        among = ("classifiers",)
    found, faults = [], []
    for kind in among:
        try:
            plugin(kind, name)
            found.append(kind)
        except BenchError as error:
            faults.append(error)
    if not found:
        raise faults[0]
    return found


def _parameters(made: Any, path: str) -> Iterator[str]:
    hints = typing.get_type_hints(type(made))
    for field in dataclasses.fields(made):
        value = getattr(made, field.name)
        if dataclasses.is_dataclass(value):
            yield from _parameters(value, f"{path}.{field.name}")
        else:
            yield f"    {path}.{field.name}: {_type(hints[field.name])} = {value}"


def _type(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(map(str, typing.get_args(hint)))
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")


def _compatibility(kind: Kind, made: Any) -> str:
    if kind == "attacks":
        bound = "bounded and --eps inf" if made.unbounded else "bounded only"
        return (
            f"works with norms {', '.join(made.norms)}; access {', '.join(made.accesses)} "
            f"(the first is the default); {bound}"
        )
    if kind == "classifiers":
        return "works with every purifier, or none"
    if isinstance(made, MakesPurifier):
        return "noise and gradient are measured when it runs, where it does not say them"
    noise = "draws noise: judged by --draws votes" if made.stochastic else "deterministic"
    access = "every access" if made.differentiable else "every access but full"
    return f"works with any classifier and data set, {access}; {noise}"


def _trained_on(name: str, made: Trainable, dataset: str) -> str:
    """Say which images a training learns from."""
    said = f"trained on the training images of {cell_name(trained_on(dataset))}"
    if wanted := made.negatives():
        threat = wanted.threat
        whose = "the defended classifier"
        if wanted.classifier_seed is not None:
            whose = f"a classifier of seed {wanted.classifier_seed}"
        said += (
            f" and AutoAttack's {threat.norm} {format_eps(threat.eps)} images of the first "
            f"{wanted.images:,}, made on {whose}"
        )
    shared = trained_as(name, made)
    return said + (f"; shares the network of {shared}" if shared != name else "")


def _checkpoints(name: str, results: Path) -> Iterator[str]:
    found = [
        path
        for path in Store(results).checkpoints()
        if path.stem.rpartition("-")[0] == name and complete(path)
    ]
    yield "  checkpoints:" if found else f"  no checkpoint in {results}: `bench train {name}`"
    for path in found:
        _, digest = load_checkpoint(path)
        card = read_card(path)
        metrics = ", ".join(f"{key} {value:.4g}" for key, value in card["metrics"].items())
        count = f"{card['images']:,} images of " if "images" in card else ""
        about = f"{count}{path.parent.name}"
        about += f"; {metrics}" if metrics else ""
        yield f"    {path} sha256 {digest[:16]} ({about})"

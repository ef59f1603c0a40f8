"""Of which kind a plugin is, where nobody says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.core.isolation import isolated
from bench.data.datasets import DATASETS
from bench.data.names import corruption_of, file_of, folder_of
from bench.errors import PluginError, UsageError, unknown_name
from bench.plugins.as_classifier import MadeClassifier
from bench.plugins.as_defense import MadeDefense
from bench.plugins.catalogue import KINDS, SINGULAR, Kind, blocked, catalogue, plugin
from bench.plugins.names import ARCHITECTURES, ATTACK_LIBRARIES, kept, parsed
from bench.testing.material import material, streams

OPTION: dict[Kind, str] = {**SINGULAR, "datasets": "dataset"}  # as one types it


def kind_of(name: str, *, dataset: str, data: Path) -> Kind:
    """Find the kind of a plugin by its name; raises BenchError where it could be several."""
    typed = parsed(name)
    if typed is None:
        return _of_catalogue(name)
    if typed.in_file:
        return _in_file(name, dataset=dataset, data=data)
    if typed.source in ATTACK_LIBRARIES:
        return "attacks"
    if typed.source in ARCHITECTURES:
        return "classifiers"
    raise UsageError(f"{name} is not checked here: it is RobustBench's own.")


def _of_catalogue(name: str) -> Kind:
    found: list[Kind] = [k for k in KINDS if name in catalogue(k) or name in blocked(k)]
    if not found and (
        name in DATASETS or file_of(name) or folder_of(name) or corruption_of(name)
    ):
        return "datasets"
    if not found:
        known = [*DATASETS, *(one for kind in KINDS for one in catalogue(kind))]
        raise unknown_name("plugin", name, known)
    if len(found) > 1:
        raise _unclear(name, found)
    return found[0]


def _in_file(name: str, *, dataset: str, data: Path) -> Kind:
    """Tell by the contract, by the arguments, and at last by what it makes of images."""
    fits = {kind: cls for kind in KINDS if (cls := _made(kind, name)) is not None}
    if not fits:
        return "defenses"  # whose error says what is wrong
    for kind in fits.keys() & {"datasets", "attacks"}:  # nothing else looks like them
        return kind
    defense, classifier = fits.get("defenses"), fits.get("classifiers")
    if defense is None:
        return "classifiers"
    if classifier is None or not issubclass(defense, MadeDefense):
        return "defenses"
    if not issubclass(classifier, MadeClassifier) or "classes" in classifier.gives:
        return "classifiers"
    thing = defense.thing.object
    if callable(getattr(thing, "purify", None)):
        return "defenses"
    try:
        found = _tried(defense, dataset=dataset, data=data)
    except Exception as error:  # whatever it raises, it is not known what it is
        raise _unclear(name, ["defenses", "classifiers"]) from error
    return "classifiers" if isinstance(found, Tensor) and found.dim() == 2 else "defenses"


def _made(kind: Kind, name: str) -> Any:
    try:
        return plugin(kind, name)
    except PluginError:
        return None


def _tried(defense: type[Any], *, dataset: str, data: Path) -> Any:
    images = material(dataset, data)
    with isolated(0), torch.no_grad():
        purifier = defense().purifier(shape=images.shape)
        return purifier.purify(images.x, rng=streams(len(images.x)))


def _unclear(name: str, kinds: list[Kind]) -> UsageError:
    named = " or ".join(SINGULAR[kind] for kind in kinds)
    options = " or ".join(f"--kind {OPTION[kind]}" for kind in kinds)
    return UsageError(f"{kept(name)} may be a {named}. Say which it is: add {options}.")

"""Contract tests for a plugin of each kind, for a user's own tests and for `bench check`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.plugins.catalogue import Kind
from bench.testing.attacks import ATTACKS, attack_subject
from bench.testing.classifiers import CLASSIFIERS, classifier_subject
from bench.testing.datasets import DATASETS, dataset_subject
from bench.testing.defenses import FIRST, defense_subject
from bench.testing.gradients import GRADIENTS
from bench.testing.material import Material, material
from bench.testing.outcome import Result, outcomes, required
from bench.testing.protocols import PROTOCOLS
from bench.testing.things import label_of

DEFENSES = (*FIRST, *GRADIENTS, *PROTOCOLS)
_DATA = Path("data")


def results_of(
    kind: Kind,
    thing: object,
    *,
    dataset: str = "digits",
    data: Path = _DATA,
    settings: Mapping[str, Any] | None = None,
    tried_on: Material | None = None,
) -> Iterator[Result]:
    """Run the checks of a kind one by one; raises BenchError for a data set that is not there.

    ``tried_on``: other images than those of the data set.
    """
    asked = settings or {}
    if kind == "attacks":
        yield from outcomes(lambda: attack_subject(thing, settings=asked), ATTACKS)
    elif kind == "datasets":
        yield from outcomes(lambda: dataset_subject(thing, data=data, settings=asked), DATASETS)
    else:
        images = tried_on or material(dataset, data)
        if kind == "defenses":
            yield from outcomes(
                lambda: defense_subject(thing, images, dataset=dataset, settings=asked),
                DEFENSES,
            )
        else:
            yield from outcomes(
                lambda: classifier_subject(thing, images, dataset=dataset, settings=asked),
                CLASSIFIERS,
            )


def check_defense(
    defense: object, *, dataset: str = "digits", data: Path = _DATA
) -> list[Result]:
    """Check a purifier: a name, a class, a function or an object; raises ContractError."""
    found = list(results_of("defenses", defense, dataset=dataset, data=data))
    return required(found, label_of(defense))


def check_attack(attack: object) -> list[Result]:
    """Check an attack: a name, a class, a function or an object; raises ContractError."""
    return required(list(results_of("attacks", attack)), label_of(attack))


def check_classifier(
    classifier: object, *, dataset: str = "digits", data: Path = _DATA
) -> list[Result]:
    """Check a classifier: a name, a class, a function or a network; raises ContractError."""
    found = list(results_of("classifiers", classifier, dataset=dataset, data=data))
    return required(found, label_of(classifier))


def check_dataset(dataset: object, *, data: Path = _DATA) -> list[Result]:
    """Check a data set: a name, a path or a plugin; raises ContractError."""
    return required(list(results_of("datasets", dataset, data=data)), label_of(dataset))

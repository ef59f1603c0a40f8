"""A data set in a file: a dataclass with the contract, as a package's is."""

from __future__ import annotations

import dataclasses
from typing import Any

from bench.errors import PluginError
from bench.plugins.thing import Thing, article

_CONTRACT = ("shape", "classes", "test_images", "load")


def as_dataset(thing: Thing) -> type[Any]:
    """Return the class of a data set; raises PluginError where it is none."""
    one = thing.object
    if isinstance(one, type) and dataclasses.is_dataclass(one):
        if all(hasattr(one, name) for name in _CONTRACT):
            return one
        what = f"a dataclass without {', '.join(n for n in _CONTRACT if not hasattr(one, n))}"
    else:
        what = "a class, but no dataclass" if isinstance(one, type) else article(one)
    raise PluginError(
        f"{thing.label} is {what}. A data set is a dataclass with shape, classes, test_images "
        "and load(*, root, train): `bench new dataset NAME` writes one."
    )

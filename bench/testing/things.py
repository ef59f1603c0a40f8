"""From a name, a class, a function or an object to a plugin of one kind."""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any

from bench.errors import PluginError, UsageError
from bench.experiments.prepare import built
from bench.plugins.as_attack import as_attack
from bench.plugins.as_classifier import as_classifier
from bench.plugins.as_dataset import as_dataset
from bench.plugins.as_defense import as_defense
from bench.plugins.catalogue import Kind, build_dataclass, parameters, plugin
from bench.plugins.names import kept
from bench.plugins.thing import Thing
from bench.testing.outcome import Fails

_AS: dict[Kind, Callable[[Thing], type[Any]]] = {
    "attacks": as_attack,
    "defenses": as_defense,
    "classifiers": as_classifier,
    "datasets": as_dataset,
}


def label_of(thing: object) -> str:
    """Name a thing in messages."""
    if isinstance(thing, str):
        return kept(thing)
    named = isinstance(thing, type) or inspect.isroutine(thing)
    return str(getattr(thing if named else type(thing), "__name__", "plugin"))


def made(
    kind: Kind, thing: object, *, dataset: str, settings: Mapping[str, Any] | None = None
) -> Any:
    """Make a plugin of a name, a class, a function or an object; raises BenchError.

    An instance of a plugin's class is taken as it is.
    """
    if isinstance(thing, str):
        cls = plugin(kind, thing)
    elif dataclasses.is_dataclass(thing) and (
        hasattr(thing, "revision") or hasattr(thing, "test_images")
    ):
        if not isinstance(thing, type):
            return thing
        cls = thing
    else:
        cls = _AS[kind](Thing(thing, label_of(thing)))
    return built(kind, cls, dataset=dataset, settings=settings or {})


def is_written_down(plugin: Any) -> None:
    """Check that a plugin is frozen, versioned, and what its written parameters make again."""
    cls = type(plugin)
    if not cls.__dataclass_params__.frozen:
        raise Fails(
            "a frozen dataclass",
            found=f"that {cls.__name__} can be changed after it was made",
            remedy="Write @dataclass(frozen=True), so that what ran is what was written down.",
        )
    revision = getattr(plugin, "revision", None)
    if type(revision) is not int or revision < 1:
        raise Fails(
            "a revision of 1 or more",
            found=f"{revision!r}",
            remedy="Write revision: ClassVar[int] = 1, and raise it when results change.",
        )
    written = json.loads(json.dumps(parameters(plugin), allow_nan=False))
    again: object
    try:
        again = parameters(build_dataclass(cls, written, where="the plugin"))
    except (PluginError, UsageError) as error:
        again = str(error)
    if again != written:
        raise Fails(
            "the same parameters after they were written down and read again",
            found=f"{again} in place of {written}",
            remedy="Do not change a parameter in __post_init__; keep what is made of it "
            "under another name.",
        )

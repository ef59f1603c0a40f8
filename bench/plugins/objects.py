"""What a user passes to ``bench.api`` in place of a name: an object, and how it is named."""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import re
import sys
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.core.isolation import isolated
from bench.core.networks import digest_of_weights, modules_in
from bench.errors import BenchError, PluginError
from bench.plugins.catalogue import SINGULAR, Kind, build_dataclass, catalogue, parameters
from bench.plugins.code import digest_of_code, own_modules
from bench.plugins.elsewhere import plugin_of_object
from bench.plugins.names import OBJECTS
from bench.plugins.thing import Thing

_NONE = "none"  # the defense without a purifier


@dataclass(frozen=True)
class Named:
    """A plugin by name, with parameters where the object sets them, and its class.

    ``plugin`` is None for one that the catalogue has.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    plugin: type[Any] | None = None


def named(kind: Kind, thing: object) -> Named:
    """Name what a user passed: a name, an object, or None for no purifier.

    An object is copied as it is now. Raises PluginError where it is no plugin of this kind.
    """
    if thing is None and kind == "defenses":
        return Named(_NONE)
    if isinstance(thing, str):
        return Named(thing)
    cls = thing if isinstance(thing, type) else type(thing)
    settings = _settings(thing)
    known = _known(kind, cls)
    if known and (settings is not None or thing is cls):
        return Named(known, settings or {})
    one = cls if settings is not None else _copied(thing, SINGULAR[kind])
    label = _label(thing)
    own = own_modules() | _namespace(thing)
    plugin = plugin_of_object(
        kind,
        Thing(one, label, own, functools.partial(isolated, 0)),
        digest=digest_of_code(one, own),
    )
    return Named(f"{OBJECTS}:{label}", settings or {}, plugin)


def _known(kind: Kind, cls: type[Any]) -> str | None:
    """Return the name that an entry point has for a class."""
    value = f"{cls.__module__}:{cls.__qualname__}"
    return next((name for name, at in catalogue(kind).items() if at.value == value), None)


def _settings(thing: object) -> dict[str, Any] | None:
    """Return the parameters of a dataclass from which the same is made again; else None."""
    if isinstance(thing, type) or not dataclasses.is_dataclass(thing):
        return None
    try:
        values = parameters(thing)
        again = build_dataclass(type(thing), values, where="object")
    except (BenchError, ValueError):
        return None
    same = [(digest_of_weights(one), digest_of_code(one, {})) for one in (thing, again)]
    return values if same[0] == same[1] else None


def _copied(thing: object, what: str) -> object:
    """Copy an object with its networks; raises PluginError where the caller's would change."""
    if isinstance(thing, type) or inspect.isroutine(thing):
        return thing  # networks that it uses are copied where it is held
    try:
        made = copy.deepcopy(thing)
    except Exception as error:  # whatever a third-party object raises
        raise PluginError(
            f"the {what} {type(thing).__name__} cannot be copied ({type(error).__name__}: "
            f"{error}), and bench does not change what it is given. Pass a function that makes "
            "it."
        ) from error
    shared = {*modules_in(thing)} & {*modules_in(made)}
    if any(True for network in shared for _ in network.parameters()):
        names = ", ".join(sorted({type(network).__name__ for network in shared}))
        raise PluginError(
            f"the {what} {type(thing).__name__} has a network in a place that is not copied "
            f"with it ({names}), and bench does not change what it is given. Hold it as an "
            "attribute."
        )
    return made


def _label(thing: object) -> str:
    """Name an object after its class, function or method."""
    is_named = isinstance(thing, type) or inspect.isroutine(thing)
    name: str = getattr(thing if is_named else type(thing), "__name__", "")
    return re.sub(r"\W", "", name) or "object"


def _namespace(thing: object) -> dict[str, dict[str, Any]]:
    """Return the globals of a function of no module, as where code is run by exec."""
    if not isinstance(thing, types.FunctionType) or thing.__module__ in sys.modules:
        return {}
    return {str(thing.__module__): thing.__globals__}

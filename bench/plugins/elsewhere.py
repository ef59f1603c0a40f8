"""Plugins that are no class of a package: in a file, of a library, objects of a script."""

from __future__ import annotations

import difflib
import functools
import sys
import types
from collections.abc import Callable, Collection
from functools import partial
from importlib import import_module
from typing import Any

from torch import nn

from bench.core.isolation import isolated
from bench.errors import UsageError
from bench.plugins.architectures import architecture
from bench.plugins.as_attack import as_attack
from bench.plugins.as_classifier import as_classifier
from bench.plugins.as_dataset import as_dataset
from bench.plugins.as_defense import as_defense
from bench.plugins.files import Source, load, working_in
from bench.plugins.names import ARCHITECTURES, ATTACK_LIBRARIES, OBJECTS, Typed
from bench.plugins.offered import offered
from bench.plugins.sources import note_source
from bench.plugins.state_dicts import load_weights
from bench.plugins.thing import Thing

_AS: dict[str, Callable[[Thing], type[Any]]] = {
    "attacks": as_attack,
    "defenses": as_defense,
    "classifiers": as_classifier,
    "datasets": as_dataset,
}
_LISTED = 10  # names of a file in an error


def plugin_of(kind: str, typed: Typed) -> type[Any]:
    """Find the class behind a name with a source; raises UsageError or PluginError."""
    if typed.source in ARCHITECTURES and kind == "classifiers":
        return _architecture(typed)
    if typed.source == OBJECTS:
        return offered(kind, typed.name)
    if not typed.in_file:
        if typed.source not in ATTACK_LIBRARIES or kind != "attacks":
            raise UsageError(f"{typed} is no name of one of the {kind}. See `bench list`.")
        # Not imported before: most commands need no library of attacks.
        found: type[Any] = import_module("bench.plugins.libraries").attack(
            typed.source, typed.name
        )
        return found
    source = load(typed.source)
    read = partial(load_weights, path=typed.weights) if typed.weights else None
    key = kind, typed.name, typed.weights
    if key not in source.plugins:
        label = f"{source.path.name}:{typed.name}"
        named, working = _named(source, typed), partial(working_in, source)
        thing = Thing(named, label, source.namespaces(), working, read)
        found = _AS[kind](thing)
        if not source.defines(found):  # of a package: there it is another plugin
            found = _apart(found)
        source.plugins[key] = found
        note_source(found, source.digest, source.namespaces)
    return source.plugins[key]


@functools.cache
def _architecture(typed: Typed) -> type[Any]:
    return architecture(typed)


def plugin_of_object(kind: str, thing: Thing, *, digest: str) -> type[Any]:
    """Make the class of an object that a script has, whose source has this digest.

    Raises PluginError where it is no plugin of this kind.
    """
    found = _AS[kind](thing)
    if found is thing.object:  # its own class may be known by another name, and without source
        found = _apart(found)
    note_source(found, digest)
    return found


def plugin_of_package(
    kind: str, found: object, *, name: str, tops: Collection[str]
) -> type[Any]:
    """Make the class of what an entry point names, as if a file had it; raises PluginError.

    ``tops`` are the top-level packages whose globals are its own.
    """
    own = {
        module: vars(one)
        for module, one in list(sys.modules.items())
        if module.partition(".")[0] in tops and isinstance(one, types.ModuleType)
    }
    return _AS[kind](Thing(found, name, own, partial(isolated, 0)))


def _apart(cls: type[Any]) -> type[Any]:
    """Make another class of the same, which has a source of its own."""
    return type(cls.__name__, (cls,), {"__doc__": cls.__doc__, "__module__": cls.__module__})


def _named(source: Source, typed: Typed) -> Any:
    """Find what a file defines by name; raises UsageError with what it has."""
    names = vars(source.module)
    if typed.name in names:
        return names[typed.name]
    known = _public(source)
    near = difflib.get_close_matches(typed.name, known, n=1, cutoff=0.5)
    meant = f" Did you mean '{near[0]}'?" if near and typed.name else ""
    listed = ", ".join(known[:_LISTED]) + (", ..." if len(known) > _LISTED else "")
    what = f"defines no '{typed.name}'" if typed.name else "is a file: name what is in it"
    raise UsageError(
        f"{source.path.name} {what}.{meant} Write {typed.source}:NAME with one of its names: "
        f"{listed or 'it has none'}."
    )


def _public(source: Source) -> list[str]:
    """List the names in a file that may be plugins: its own, and what is ready."""
    return sorted(
        name
        for name, thing in vars(source.module).items()
        if not name.startswith("_")
        and not isinstance(thing, types.ModuleType)
        and (source.defines(thing) if _is_code(thing) else isinstance(thing, nn.Module))
    )


def _is_code(thing: Any) -> bool:
    return isinstance(thing, type | types.FunctionType)

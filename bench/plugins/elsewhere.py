"""Plugins that no entry point names: in a file, of a library, or objects of a script."""

from __future__ import annotations

import difflib
import functools
import types
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from bench.errors import UsageError
from bench.plugins.architectures import architecture
from bench.plugins.as_attack import as_attack
from bench.plugins.as_classifier import as_classifier
from bench.plugins.as_defense import as_defense
from bench.plugins.files import Source, load, working_in
from bench.plugins.names import ARCHITECTURES, ATTACK_LIBRARIES, OBJECTS, Typed
from bench.plugins.offered import offered
from bench.plugins.state_dicts import load_weights
from bench.plugins.thing import Thing

_AS: dict[str, Callable[[Thing], type[Any]]] = {
    "attacks": as_attack,
    "defenses": as_defense,
    "classifiers": as_classifier,
}
_LISTED = 10  # names of a file in an error
_sources: WeakKeyDictionary[type[Any], str] = WeakKeyDictionary()


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
            found = type(found.__name__, (found,), {"__doc__": found.__doc__})
        source.plugins[key] = found
        _sources[found] = source.digest
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
        found = type(found.__name__, (found,), {"__doc__": found.__doc__})
    _sources[found] = digest
    return found


def source_of(plugin: object) -> str | None:
    """Return the digest of the source that a plugin was read from; None for a package's."""
    return _sources.get(type(plugin))


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

"""The catalogue: entry points to plugins, with parameters checked. Listing imports nothing."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import importlib.util
import typing
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

import pydantic

from bench.errors import PluginError, UsageError, unknown_name

Kind = Literal["attacks", "defenses", "models"]
KINDS: tuple[Kind, ...] = ("attacks", "defenses", "models")
_SINGULAR = {"attacks": "attack", "defenses": "defense", "models": "classifier"}


def catalogue(kind: Kind) -> dict[str, EntryPoint]:
    """Find the entry points of a kind; raises PluginError where a name is claimed twice."""
    found: dict[str, EntryPoint] = {}
    for point in sorted(entry_points(group=f"bench.{kind}"), key=lambda point: point.name):
        other = found.setdefault(point.name, point)
        if other.value != point.value:
            raise PluginError(
                f"the {_SINGULAR[kind]} '{point.name}' is claimed by {_owner(other)} and by "
                f"{_owner(point)}. Uninstall one of them or rename its entry point."
            )
    return found


def summary(point: EntryPoint) -> str:
    """Read the first line of a plugin's docstring from its source, without importing it."""
    try:
        spec = importlib.util.find_spec(point.module)
        source = spec.loader.get_source(point.module)  # type: ignore[union-attr]
        tree = ast.parse(source or "")
    except Exception:  # a plugin that is broken in any way is still listed
        return "(cannot be read: see bench doctor)"
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == point.attr:
            return (ast.get_docstring(node) or "").partition("\n")[0]
    return ""


def plugin(kind: Kind, name: str) -> type[Any]:
    """Import a plugin's class; raises UsageError (unknown) or PluginError (broken)."""
    points = catalogue(kind)
    if name not in points:
        raise unknown_name(_SINGULAR[kind], name, points)
    point = points[name]
    try:
        found = point.load()
    except Exception as error:  # whatever a stranger's module raises on import
        raise PluginError(
            f"the {_SINGULAR[kind]} '{name}' of {_owner(point)} cannot be imported: "
            f"{type(error).__name__}: {error}. Repair or uninstall that distribution."
        ) from error
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise PluginError(
            f"the {_SINGULAR[kind]} '{name}' of {_owner(point)} is not a dataclass of its "
            "parameters. See 'Add a defense' in the README."
        )
    return found


def build(kind: Kind, name: str, params: Mapping[str, Any]) -> Any:
    """Make a plugin from parameters, checked against their types; raises UsageError."""
    return build_dataclass(plugin(kind, name), params, where=_SINGULAR[kind])


def build_dataclass(cls: type[Any], params: Mapping[str, Any], *, where: str) -> Any:
    """Make a dataclass of checked parameters; all faults are told together."""
    faults = _unknown_fields(cls, params, where)
    if not faults:
        try:
            return pydantic.TypeAdapter(cls).validate_python(dict(params))
        except pydantic.ValidationError as error:
            for fault in error.errors():
                path = ".".join(str(step) for step in (where, *fault["loc"]))
                faults.append(f"{path} = {fault['input']!r}: {fault['msg']}.")
    raise UsageError(" ".join(faults))


def _unknown_fields(cls: type[Any], params: Mapping[str, Any], where: str) -> list[str]:
    known = [field.name for field in dataclasses.fields(cls)]
    faults = []
    for name, value in params.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            meant = f" Did you mean '{where}.{near[0]}'?" if near else ""
            faults.append(
                f"{where}.{name} is no parameter.{meant} Known: {', '.join(known) or 'none'}."
            )
        elif isinstance(value, Mapping):
            nested = typing.get_type_hints(cls)[name]
            if isinstance(nested, type) and dataclasses.is_dataclass(nested):
                faults += _unknown_fields(nested, value, f"{where}.{name}")
    return faults


def parameters(plugin: Any) -> dict[str, Any]:
    """Write a plugin's parameters, defaults included, as plain JSON values."""
    found = pydantic.TypeAdapter(type(plugin)).dump_python(plugin, mode="json")
    return dict(found)


def _owner(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.value

"""The catalogue: entry points to plugins, with parameters checked. Listing imports nothing."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import math
import os
import re
import sys
import typing
import warnings
from collections.abc import Iterator, Mapping
from importlib.metadata import Distribution, EntryPoint, EntryPoints, entry_points
from typing import Any, Literal

import pydantic
import pydantic_core

from bench.errors import BenchError, OldNameWarning, PluginError, UsageError, unknown_name
from bench.plugins.added import as_before
from bench.plugins.names import kept, parsed
from bench.plugins.parameter_faults import clipped, in_words, validated
from bench.plugins.sources import (
    digest_of_source,
    find_spec,
    note_source,
    ships,
    source_of,
    tops_of,
)

Kind = Literal["attacks", "defenses", "classifiers", "datasets"]
# What a plugin has to define, beside its parameters: one of these.
_DEFINES: dict[Kind, tuple[tuple[str, ...], ...]] = {
    "attacks": (("revision", "norms", "accesses", "unbounded", "calls", "__call__"),),
    "defenses": (("revision", "stochastic", "differentiable"),),
    "classifiers": (
        ("revision", "needs_classifier", "negatives", "start", "load"),
        ("revision", "network"),  # of one that is trained already
    ),
    "datasets": (("shape", "classes", "test_images", "load"),),
}
_OURS = "purifybench"
_ADAPTERS: dict[type[Any], pydantic.TypeAdapter[Any]] = {}
_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")
distributions: dict[str, str] = {}  # whose plugins this process has used, with versions
sources: dict[str, str] = {}  # the digest of the source of each of these plugins
_made: dict[
    tuple[Kind, str], tuple[object, type[Any]]
] = {}  # of what is no class of parameters
KINDS: tuple[Kind, ...] = ("attacks", "defenses", "classifiers", "datasets")
SINGULAR: dict[Kind, str] = {
    "attacks": "attack",
    "defenses": "defense",
    "classifiers": "classifier",
    "datasets": "data set",
}
_OLD_GROUP: dict[Kind, str] = {"classifiers": "bench.models"}  # still read, with a warning


def catalogue(kind: Kind) -> dict[str, EntryPoint]:
    """Find the entry points of a kind by name, without those that ``blocked`` names."""
    return _told_apart(_points(kind, warn=True), kind)[0]


def is_ours(kind: Kind, name: str) -> bool:
    """Whether a name is that of a plugin that ships, and of no other."""
    point = catalogue(kind).get(name)
    return point is not None and point.dist is not None and point.dist.name == _OURS


def blocked(kind: Kind) -> dict[str, str]:
    """Say why plugins cannot be used, by name: claimed twice, or the name itself."""
    return _told_apart(_points(kind, warn=False), kind)[1]


def _told_apart(
    points: list[EntryPoint], kind: Kind
) -> tuple[dict[str, EntryPoint], dict[str, str]]:
    found: dict[str, EntryPoint] = {}
    reasons: dict[str, str] = {}
    for point in points:
        what = f"the {SINGULAR[kind]} {point.name!a}"
        other = found.setdefault(point.name, point)
        if not _NAME.fullmatch(point.name):
            reasons[point.name] = (
                f"{what} of {_owner(point)} has a name that cannot be used. Rename its entry "
                "point: letters, digits, _ and -, at most 100."
            )
        elif other.value != point.value:
            reasons[point.name] = (
                f"{what} is claimed by {_owner(other)} and by {_owner(point)}. Uninstall one "
                "of them or rename its entry point."
            )
    return {name: point for name, point in found.items() if name not in reasons}, reasons


def _points(kind: Kind, *, warn: bool) -> list[EntryPoint]:
    """List the entry points of a kind by name, with a warning on those in its old group."""
    group, path = f"bench.{kind}", tuple(map(_state, sys.path))
    points = list(_installed(group, path))
    known = {(point.name, point.value) for point in points}
    for point in _installed(_OLD_GROUP.get(kind, group), path):
        if (point.name, point.value) not in known:
            points.append(point)
            if warn:
                warnings.warn(
                    f"the {SINGULAR[kind]} '{point.name}' of {_owner(point)} is in the "
                    f"entry-point group {point.group}, which is now {group}: rename it in its "
                    "pyproject.toml.",
                    OldNameWarning,
                    stacklevel=3,
                )
    return sorted(points, key=lambda point: point.name)


@functools.lru_cache(maxsize=8)  # an audit asks a hundred times, for 5 ms each
def _installed(group: str, _path: tuple[tuple[str, int], ...]) -> EntryPoints:
    """Read the entry points of all distributions; again once one was added or removed."""
    return entry_points(group=group)


def _state(folder: str) -> tuple[str, int]:
    try:
        return folder, os.stat(folder or os.curdir).st_mtime_ns
    except OSError:
        return folder, 0


def summary(point: EntryPoint) -> str:
    """Read the first line of a plugin's docstring from its source, without importing it."""
    try:
        node = _in_source(point)
    except Exception:  # a plugin that is broken in any way is still listed
        return "(cannot be read: see bench doctor)"
    return (ast.get_docstring(node) or "").partition("\n")[0] if node else ""


def sorts(kind: Kind) -> dict[str, str | None]:
    """Read the plugins' own ``kind`` by name, such as "filters"; None where one has none."""
    points = _told_apart(_points(kind, warn=False), kind)[0]
    return {name: _sort_of(point) for name, point in points.items()}


def _sort_of(point: EntryPoint) -> str | None:
    try:
        node = _in_source(point)
    except Exception:  # the listing says so beside its name
        return None
    for line in node.body if node else []:
        targets: list[ast.expr] = [line.target] if isinstance(line, ast.AnnAssign) else []
        targets += line.targets if isinstance(line, ast.Assign) else []
        value = getattr(line, "value", None)
        if any(isinstance(name, ast.Name) and name.id == "kind" for name in targets) and (
            isinstance(value, ast.Constant) and isinstance(value.value, str)
        ):
            return value.value
    return None


def _in_source(point: EntryPoint) -> ast.ClassDef | ast.FunctionDef | None:
    """Parse a plugin's class or function; raises whatever a module may that cannot be read."""
    spec = find_spec(point.module)
    # A spec or loader that is None raises here, as announced.
    source = spec.loader.get_source(point.module)  # type: ignore[union-attr]
    for node in ast.parse(source or "").body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == point.attr:
            return node
    return None


def plugin(kind: Kind, name: str) -> type[Any]:
    """Import a plugin's class; raises UsageError (unknown) or PluginError (broken)."""
    if typed := parsed(name):
        from bench.plugins.elsewhere import plugin_of

        return _sound(kind, plugin_of(kind, typed), f"the {SINGULAR[kind]} {kept(name)}")
    points, unusable = _told_apart(_points(kind, warn=True), kind)
    if name in unusable:
        raise PluginError(unusable[name])
    if name not in points:
        error = unknown_name(SINGULAR[kind], name, points)
        if name.endswith((".pth", ".pt", ".safetensors")):  # weights without their network
            error = UsageError(f"{error} Weights belong to a network: mine.py:Net={name}.")
        raise error
    point = points[name]
    try:
        found = point.load()
    except (Exception, SystemExit) as error:  # whatever a third-party module raises on import
        raise PluginError(
            f"the {SINGULAR[kind]} '{name}' of {_owner(point)} cannot be imported: "
            f"{type(error).__name__}: {error}. Repair or uninstall that distribution."
        ) from error
    if point.dist and point.dist.name != _OURS:
        distributions[point.dist.name] = point.dist.version
        found = _of_stranger(kind, point, point.dist, found)
    return _sound(kind, found, f"the {SINGULAR[kind]} '{name}' of {_owner(point)}")


def _of_stranger(kind: Kind, point: EntryPoint, dist: Distribution, found: Any) -> Any:
    """Note the source of what another distribution offers; make a class of what is none."""
    is_class = isinstance(found, type) and dataclasses.is_dataclass(found)
    module = found.__module__ if is_class else point.module
    tops = tops_of(dist, module)
    if not is_class:
        kept_of, made = _made.get((kind, point.value), (None, None))
        if kept_of is not found or made is None:
            from bench.plugins.elsewhere import plugin_of_package

            try:
                made = plugin_of_package(kind, found, name=point.name, tops=tops)
            except PluginError as error:
                what = f"the {SINGULAR[kind]} '{point.name}' of {_owner(point)}"
                raise PluginError(f"{what}: {error}") from error
            _made[kind, point.value] = found, made
        found = made
    elif ships(found):
        return found
    if source_of(found) is None and (digest := digest_of_source(module, tops)):
        note_source(found, digest)
    if digest := source_of(found):
        sources[f"{point.name} of {_owner(point)}"] = digest
    return found


def _sound(kind: Kind, found: Any, what: str) -> type[Any]:
    """Check that a class has a plugin's contract; raises PluginError."""
    is_class = isinstance(found, type) and dataclasses.is_dataclass(found)
    lacks = [[name for name in one if not hasattr(found, name)] for one in _DEFINES[kind]]
    if is_class and all(lacks):
        raise PluginError(
            f"{what} does not define {', '.join(lacks[0])}. See 'Add a defense' in "
            "docs/plugins.md."
        )
    if not is_class:
        raise PluginError(
            f"{what} is not a dataclass of its parameters. See 'Add a defense' in "
            "docs/plugins.md."
        )
    if fault := _not_written(found):
        raise PluginError(f"{what}: {fault}")
    # What an entry point loads has any type; that it fits was checked above.
    return found  # type: ignore[no-any-return]


def _not_written(cls: type[Any]) -> str | None:
    """Name the first parameter whose type has no plain values; None where all have."""
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except Exception as error:  # annotations may raise anything
        return f"the types of its parameters cannot be read ({error})."
    try:
        _adapter(cls)
    except Exception as error:  # pydantic has several
        for field in dataclasses.fields(cls):
            hint = hints[field.name]
            try:
                pydantic.TypeAdapter(hint)
            except Exception:
                shown = hint.__qualname__ if isinstance(hint, type) else str(hint)
                return (
                    f"its parameter '{field.name}' is a {shown}, which cannot be written down "
                    "in a cell. Take numbers, text, lists or dataclasses of them, and make the "
                    "rest of them."
                )
        return f"its parameters cannot be checked ({type(error).__name__})."
    return None


def _adapter(cls: type[Any]) -> pydantic.TypeAdapter[Any]:
    if cls not in _ADAPTERS:  # a plan builds the same plugins again and again
        _ADAPTERS[cls] = pydantic.TypeAdapter(cls)
    return _ADAPTERS[cls]


def build(kind: Kind, name: str, params: Mapping[str, Any]) -> Any:
    """Make a plugin from parameters, checked against their types; raises UsageError."""
    return build_dataclass(plugin(kind, name), params, where=SINGULAR[kind])


def build_dataclass(cls: type[Any], params: Mapping[str, Any], *, where: str) -> Any:
    """Make a dataclass of checked parameters; all faults are told together."""
    faults = _unknown_fields(cls, params, where)
    if not faults:
        try:
            made = validated(_adapter(cls), params)
        except pydantic.ValidationError as error:
            faults += in_words(error, where)
        except BenchError:
            raise
        except (Exception, SystemExit) as error:  # whatever a constructor raises
            raise PluginError(
                f"the {where} {cls.__name__} cannot be made: {type(error).__name__}: {error}. "
                "Repair its __post_init__, or choose other parameters."
            ) from error
        else:
            values = _written(made)
            faults = [*_not_finite(values, where), *_taken_otherwise(params, values, where)]
            if not faults:
                return made
    raise UsageError(" ".join(faults))


def _unknown_fields(cls: type[Any], params: Mapping[str, Any], where: str) -> list[str]:
    known = [field.name for field in dataclasses.fields(cls)]
    set_elsewhere: Mapping[str, str] = getattr(cls, "not_parameters", {})
    faults = []
    for name, value in params.items():
        if name in set_elsewhere:
            faults.append(f"{where}.{name} is no parameter: {set_elsewhere[name]}.")
        elif name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            meant = f" Did you mean '{where}.{near[0]}'?" if near else ""
            there = f"Known: {', '.join(known)}." if known else f"{cls.__name__} has none."
            faults.append(f"{where}.{name} is no parameter.{meant} {there}")
        elif isinstance(value, Mapping):
            nested = typing.get_type_hints(cls)[name]
            if isinstance(nested, type) and dataclasses.is_dataclass(nested):
                faults += _unknown_fields(nested, value, f"{where}.{name}")
    return faults


def _not_finite(value: Any, path: str) -> Iterator[str]:
    """Find the numbers that no key can hold."""
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{path} = {value}: a parameter has to be finite."
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _not_finite(inner, f"{path}.{name}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _not_finite(inner, f"{path}.{number}")


def _taken_otherwise(given: Any, kept: Any, path: str) -> Iterator[str]:
    """Find where true or false was taken for a number, or a whole number was rounded."""
    if isinstance(given, bool):
        if not isinstance(kept, bool | str):
            yield f"{path} = {str(given).lower()}: write a number."
    elif isinstance(given, int) and isinstance(kept, float):
        if given != kept:
            yield f"{path} = {clipped(given)}: it would be kept as {kept!r}. Write that."
    elif isinstance(given, Mapping) and isinstance(kept, Mapping):
        for name in given.keys() & kept.keys():
            yield from _taken_otherwise(given[name], kept[name], f"{path}.{name}")
    elif isinstance(given, list) and isinstance(kept, list):
        for number, (one, other) in enumerate(zip(given, kept, strict=False)):
            yield from _taken_otherwise(one, other, f"{path}.{number}")


def parameters(plugin: Any) -> dict[str, Any]:
    """Write a plugin's parameters, defaults included, as plain JSON values.

    Only defaults that were ``added`` later are left out. Raises PluginError where a value has
    no such form.
    """
    return as_before(plugin, _written(plugin))


def _written(plugin: Any) -> dict[str, Any]:
    try:
        return dict(_adapter(type(plugin)).dump_python(plugin, mode="json"))
    except ValueError as error:  # of pydantic_core, which names the type
        for field in dataclasses.fields(plugin):
            value = getattr(plugin, field.name)
            try:
                pydantic_core.to_jsonable_python(value)
            except ValueError:
                raise PluginError(
                    f"the parameter '{field.name}' of {type(plugin).__name__} is a "
                    f"{type(value).__name__}, which cannot be written down in a cell. Take "
                    "numbers, text, lists or dataclasses of them, and make the rest of them."
                ) from error
        raise PluginError(
            f"the parameters of {type(plugin).__name__} cannot be written down: {error}"
        ) from error


def _owner(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.value

"""What a function or a class takes: what bench gives, and the parameters that a user sets."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import pydantic

from bench.errors import PluginError

_PLAIN = (bool, int, float, str, list, tuple, dict)
OF_THE_DATA = ("shape", "classes")  # of images (C, H, W)
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_SEVERAL = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
Field = tuple[str, Any, Any]  # of dataclasses.make_dataclass


@dataclass(frozen=True)
class Signature:
    """What a callable takes: names that bench ``gives``, and ``fields`` for parameters."""

    gives: frozenset[str]
    fields: tuple[Field, ...]


def positionals(thing: Callable[..., Any]) -> list[str]:
    """List the positional arguments without a default; none where they cannot be read."""
    try:
        known = inspect.signature(thing).parameters.values()
    except (TypeError, ValueError):  # of code in C
        return []
    return [
        parameter.name
        for parameter in known
        if parameter.kind in _POSITIONAL and parameter.default is parameter.empty
    ]


def takes_no_images(function: Callable[..., Any]) -> bool:
    """Whether a function takes parameters only, and what bench knows of the data set."""
    hints = _hints(function)
    return all(
        name in OF_THE_DATA or hints.get(name) in _PLAIN for name in positionals(function)
    )


def names_of(thing: Callable[..., Any], what: str) -> list[str]:
    """List the arguments of a callable by name; raises PluginError."""
    return list(_parameters(thing, what))


def _parameters(thing: Callable[..., Any], what: str) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(thing).parameters
    except (TypeError, ValueError) as error:
        raise PluginError(
            f"the arguments of {what} cannot be read ({error}). Write a function around it."
        ) from error


def signature_of(
    thing: Callable[..., Any], *, given: Collection[str], skip: int, what: str, expected: str
) -> Signature:
    """Read a signature after its first ``skip`` arguments; raises PluginError.

    A parameter has a plain default or a type that pydantic reads. Others keep their default.
    """
    gives, fields = set(), []
    hints = _hints(thing)
    for parameter in list(_parameters(thing, what).values())[skip:]:
        name, required = parameter.name, parameter.default is parameter.empty
        if parameter.kind in _SEVERAL:
            continue
        if name in given:
            gives.add(name)
            continue
        hint = _type(hints.get(name), parameter.default)
        if hint is not None and parameter.kind is not parameter.POSITIONAL_ONLY:
            fields.append(_field(name, hint, parameter))
        elif required:
            raise PluginError(
                f"{what} takes '{name}', which has neither a default nor a type such as int. "
                f"Give it one of them; bench calls it as {expected}."
            )
    return Signature(frozenset(gives), tuple(fields))


def _hints(thing: Callable[..., Any]) -> Mapping[str, Any]:
    of: Any = thing
    if isinstance(thing, type) and not dataclasses.is_dataclass(thing):
        # mypy warns of subclasses with another __init__: it is this class's that is read.
        of = vars(thing).get("__init__", thing.__init__)  # type: ignore[misc]
    elif not isinstance(thing, type) and not inspect.isroutine(thing):
        of = type(thing).__call__
    try:
        return typing.get_type_hints(of, include_extras=True)
    except Exception:  # annotations may raise anything; defaults are left
        return {}


def _type(hint: Any, default: Any) -> Any:
    """Return the type that a parameter is checked against; None where it can be none."""
    plain = default is None or isinstance(default, _PLAIN)
    if hint is not None and (plain or default is inspect.Parameter.empty):
        try:
            pydantic.TypeAdapter(hint)
        except Exception:  # pydantic has several
            return None
        return hint
    if hint is None and isinstance(default, _PLAIN):
        return type(default)
    return None


def _field(name: str, hint: Any, parameter: inspect.Parameter) -> Field:
    default = parameter.default
    if default is parameter.empty:
        return name, hint, dataclasses.field(kw_only=True)
    if isinstance(default, list | dict):
        kept = default
        return name, hint, dataclasses.field(default_factory=lambda: kept.copy(), kw_only=True)
    return name, hint, dataclasses.field(default=default, kw_only=True)

"""What of a library's signature a user may set: parameters with plain values."""

from __future__ import annotations

import functools
import inspect
import operator
import types
import typing
from collections.abc import Collection, Iterator
from dataclasses import field
from typing import Any, Literal

_PLAIN = (bool, int, float, str, type(None))


def settable(make: Any, *, but: Collection[str]) -> Iterator[tuple[str, Any, Any]]:
    """List the parameters that plain values can set, without some: name, type, field."""
    for one in inspect.signature(make).parameters.values():
        if one.name in but or one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD):
            continue
        kinds = _plain(one.annotation) if one.annotation is not one.empty else ()
        kinds = kinds or _like(one.default)
        if not set(kinds) - {type(None)}:
            continue
        kind = functools.reduce(operator.or_, kinds)
        if one.default is one.empty:
            yield one.name, kind, field()
        else:
            yield one.name, kind, field(default=one.default)


def _plain(hint: Any) -> tuple[Any, ...]:
    """List the plain types of an annotation, which may be text such as 'int | None'."""
    if isinstance(hint, str):
        names = {kind.__name__: kind for kind in _PLAIN} | {"None": type(None)}
        return tuple(names[part] for part in map(str.strip, hint.split("|")) if part in names)
    if typing.get_origin(hint) is Literal or hint in _PLAIN:
        return (hint,)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return tuple(kind for part in typing.get_args(hint) for kind in _plain(part))
    return ()


def _like(default: Any) -> tuple[Any, ...]:
    """List the types of values that may stand in place of a default."""
    if isinstance(default, bool | str):
        return (type(default),)
    return (int, float) if isinstance(default, int | float) else ()

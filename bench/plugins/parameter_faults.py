"""Values that do not fit their parameter: a number for a text is taken, others are told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pydantic

_CLIP = 100  # characters of a value in an error
_MEANT = {
    "bool": "write true or false",
    "int": "write a whole number",
    "float": "write a number",
    "string": "write a text",
    "list": "write a list, such as [1, 2]",
    "tuple": "write a list, such as [1, 2]",
    "dataclass": "set its parts, as in --set defense.training.seed=1",
}


def validated(adapter: pydantic.TypeAdapter[Any], params: Mapping[str, Any]) -> Any:
    """Make what the adapter makes; a number is also a text, as in defense.training.eps=0.3.

    Raises pydantic's ValidationError.
    """
    try:
        return adapter.validate_python(dict(params))
    except pydantic.ValidationError as error:
        numbers = [
            fault["loc"]
            for fault in error.errors()
            if fault["type"] == "string_type" and type(fault["input"]) in (int, float)
        ]
        if not numbers:
            raise
    written = dict(params)
    for loc in numbers:
        written = _as_text(written, loc)
    return adapter.validate_python(written)


def _as_text(given: Any, loc: tuple[int | str, ...]) -> Any:
    """Copy a value with the number at this place written as a text."""
    if not loc:
        return str(given)
    first, *rest = loc
    if isinstance(given, Mapping) and first in given:
        return {**given, first: _as_text(given[first], tuple(rest))}
    if isinstance(given, list) and isinstance(first, int):
        return [*given[:first], _as_text(given[first], tuple(rest)), *given[first + 1 :]]
    return given  # a place inside of a union, which is no place of the value


def in_words(error: pydantic.ValidationError, where: str) -> Iterator[str]:
    """Tell each fault in a sentence, by the parameter's full name."""
    for fault in error.errors():
        path = ".".join(str(step) for step in (where, *fault["loc"]))
        if fault["type"] == "missing":
            yield f"{path} has no default: give it by --set {path}=VALUE."
        else:
            said = _sentence(fault["type"], fault["msg"])
            yield f"{path} = {clipped(fault['input'])}: {said}."


def _sentence(kind: str, message: str) -> str:
    """Translate what pydantic says."""
    meant = _MEANT.get(kind.split("_", 1)[0])
    if meant and kind.endswith(("_type", "_parsing", "_from_float")):
        return meant
    return (
        message.rstrip(".")
        .replace("Input should be", "it has to be")
        .replace("Value error, ", "")
    )


def clipped(value: Any) -> str:
    """Show a value in an error, cut where it is long."""
    shown = repr(value)
    return shown if len(shown) <= _CLIP else f"{shown[:_CLIP]}..."

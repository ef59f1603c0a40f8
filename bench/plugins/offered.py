"""What a script or a notebook has for one call of ``bench.api``: plugins, by their names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from bench.errors import UsageError
from bench.plugins.names import OBJECTS

Offered = Mapping[tuple[str, str], type[Any]]  # by kind and name
_offered: ContextVar[Offered] = ContextVar("offered", default={})  # noqa: B039 - never changed


@contextmanager
def offering(plugins: Offered) -> Iterator[None]:
    """Let names of objects stand for these plugins meanwhile."""
    token = _offered.set(plugins)
    try:
        yield
    finally:
        _offered.reset(token)


def offered(kind: str, name: str) -> type[Any]:
    """Find what a script offers by kind and name; raises UsageError."""
    try:
        return _offered.get()[kind, name]
    except KeyError:
        raise UsageError(
            f"{OBJECTS}:{name} is an object of a script or a notebook, and no command has it. "
            f"Use bench.api there, or write it into a file and name that: mine.py:{name}."
        ) from None

"""Images and labels that a script or a notebook has, for one call of ``bench.api``.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from bench.errors import UsageError
from bench.plugins.names import OBJECTS

if TYPE_CHECKING:
    from bench.core.protocols import Pixels

_given: ContextVar[Mapping[str, Pixels]] = ContextVar("given", default={})  # noqa: B039 - not changed


@contextmanager
def giving(images: Mapping[str, Pixels]) -> Iterator[None]:
    """Let names of data sets stand for these images meanwhile."""
    token = _given.set(images)
    try:
        yield
    finally:
        _given.reset(token)


def is_given(name: str) -> bool:
    """Whether a name stands for images of a script."""
    return name.startswith(f"{OBJECTS}:")


def given(name: str) -> Pixels:
    """Find the images that a script gives by their name; raises UsageError."""
    try:
        return _given.get()[name]
    except KeyError:
        raise UsageError(
            f"{name} are images of a script or a notebook, and no command has them. Use "
            "bench.api there, or save them (numpy.savez('mine.npz', x=x, y=y)) and name that "
            "file."
        ) from None

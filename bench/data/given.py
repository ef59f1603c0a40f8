"""Images and labels that a script or a notebook has, for one call of ``bench.api``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from bench.core.protocols import Pixels
from bench.data.arrays import pixels_of
from bench.errors import UsageError
from bench.plugins.names import OBJECTS

_given: ContextVar[Mapping[str, Pixels]] = ContextVar("given", default={})  # noqa: B039


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


def named(x: Any, y: Any) -> tuple[str, Pixels]:
    """Check images and labels, torch's or numpy's, and name them; raises DataError."""
    pixels = pixels_of(_array(x), _array(y), named=("x", "y"))
    return f"{OBJECTS}:images_{pixels.digest[:8]}", pixels


def _array(given: Any) -> Any:
    if not isinstance(given, Tensor):
        return given
    found = given.detach().cpu()
    return found.float() if found.dtype is torch.bfloat16 else found  # numpy has none

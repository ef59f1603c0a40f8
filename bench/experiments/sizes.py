"""A plugin for images of another size: told with what it got and what it takes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from bench.core.isolation import isolated
from bench.errors import PluginError

_SIDES = (8, 16, 28, 32, 48, 64, 96, 128, 224, 256, 299, 384)  # of images that people have
_CHANNELS = (1, 3)
_OF_A_SHAPE = re.compile(r"shape|size|dimension|channel|match|broadcast", re.IGNORECASE)
_SHOWN = 150  # characters of torch's own sentence


@contextmanager
def told_by_size(
    label: str, x: Tensor, dataset: str, call: Callable[[Tensor], object]
) -> Iterator[None]:
    """Say so where a plugin fails on images x (N, C, H, W) of another shape than its own.

    ``call`` is what is done with x; it is tried on other shapes, too. Raises PluginError.
    """
    try:
        yield
    except PluginError as error:
        said = str(error.__cause__ or "").partition("\n")[0][:_SHOWN]
        if not _OF_A_SHAPE.search(said):
            raise
        taken = _taken(x, call)
        takes = f"it takes {taken}" if taken else f"it is for another shape ({said})"
        raise PluginError(
            f"{label} fails on images (channels, height, width) {tuple(x.shape[1:])} of "
            f"{dataset}: {takes}. Choose a data set of its size, or resize the images inside "
            "of it; --image-size resizes those of a folder."
        ) from error


def _taken(x: Tensor, call: Callable[[Tensor], object]) -> tuple[int, ...] | None:
    """Find the first shape (C, H, W) that a plugin takes; None where it takes none of them."""
    shapes = [(channels, *x.shape[2:]) for channels in _CHANNELS]
    shapes += [(channels, side, side) for channels in _CHANNELS for side in _SIDES]
    for shape in shapes:
        try:
            with torch.no_grad(), isolated(0):
                call(x.new_full((1, *shape), 0.5))
        except Exception:  # whatever it raises on images that are not its own
            continue
        return shape
    return None

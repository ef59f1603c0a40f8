"""What has to be known of a defense beside its number: seen while it is judged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from bench.core.defense import Defense
from bench.core.networks import modules_in
from bench.plugins.strangers import strangers

_ROUNDING = 0.01  # what a deterministic purifier may leave [0, 1] by
_OF_NOISE = 0.1  # and one that adds noise, in the mean over all pixels


@contextmanager
def remarks(defense: Defense) -> Iterator[list[str]]:
    """Collect flags: networks that are called and not held, images that leave [0, 1]."""
    with strangers(defense) as found, _range(defense) as outside:
        yield found
    found += outside


@contextmanager
def _range(defense: Defense) -> Iterator[list[str]]:
    """Look at the images (N, C, H, W) that the classifier gets, without waiting for them."""
    flags = list[str]()
    inside = {part for one in modules_in(defense.purifier) for part in one.modules()}
    if defense.classifier in inside:  # then it gets other images, too
        yield flags
        return
    seen: list[Tensor] = []

    def before(_: Any, given: tuple[Any, ...]) -> None:
        if given and isinstance(given[0], Tensor) and given[0].numel():
            x = given[0].detach()
            low, high = torch.aminmax(x)
            seen.append(torch.stack([low, high, (x - x.clamp(0, 1)).abs().mean()]).double())

    handle = defense.classifier.register_forward_pre_hook(before)
    try:
        yield flags
    finally:
        handle.remove()
    if not seen:
        return
    low, high, left = torch.stack(seen).cpu().unbind(1)
    far = left.max() > _OF_NOISE if defense.stochastic else _most(low, high) > _ROUNDING
    if far:  # without numbers: they would differ from shard to shard
        flags.append(
            "the purifier returned values outside [0, 1], where images are: clamp or rescale "
            "them unless that is meant"
        )


def _most(low: Tensor, high: Tensor) -> Tensor:
    return torch.maximum(-low, high - 1).max()

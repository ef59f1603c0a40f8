"""What a purifier does, found by calling it on a few images: noise, gradient, networks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from bench.core.border import purified
from bench.core.isolation import isolated
from bench.core.networks import modules_in
from bench.core.rng import Rng
from bench.errors import PluginError
from bench.plugins.as_defense import HeldPurifier


def measure(purifier: Any, x: Tensor, *, label: str, held: bool) -> None:
    """Find what a purifier does not say of itself, on images x (N, C, H, W), and set it.

    ``stochastic``: two calls under other seeds differ. ``differentiable``: a finite gradient
    reaches x. Raises PluginError where it cannot run, or, with ``held``, calls a network that
    it does not hold.
    """
    rng = Rng.seeded(0, torch.arange(len(x)), device=x.device).fork("measured")
    known = only_held(purifier, label) if held else nullcontext()
    with isolated(0), known, torch.no_grad():
        first = _called_as_by_the_judge(purifier, x, rng.fork(0), label)
        if not isinstance(purifier, HeldPurifier):
            return
        if "stochastic" not in purifier.known:
            other = purified(purifier, x, rng=rng.fork(1))
            purifier.known["stochastic"] = not torch.equal(first, other)
    if "differentiable" not in purifier.known:
        with isolated(0):
            purifier.known["differentiable"] = _has_gradient(purifier, x, rng)


def _called_as_by_the_judge(purifier: Any, x: Tensor, rng: Rng, label: str) -> Tensor:
    """Clean x (N, C, H, W) where gradients are off; raises PluginError."""
    try:
        return purified(purifier, x, rng=rng)
    except PluginError as error:
        if "does not have a grad_fn" not in str(error.__cause__):
            raise
        raise PluginError(
            f"{label} asks for a gradient of its own where gradients are off, as they are for "
            "the judge. Take it under `with torch.enable_grad():`."
        ) from error


def _has_gradient(purifier: Any, x: Tensor, rng: Rng) -> bool:
    x = x.clone().requires_grad_()
    with torch.enable_grad():
        found = purified(purifier, x, rng=rng)
        if not found.requires_grad:
            return False
        (gradient,) = torch.autograd.grad(found.sum(), x, allow_unused=True)
    return gradient is not None and bool(gradient.isfinite().all()) and bool(gradient.any())


@contextmanager
def only_held(thing: Any, label: str) -> Iterator[None]:
    """Refuse a call of a network with weights that a thing does not hold; raises PluginError.

    Its passes could not be counted, and its weights would be missing in the result's key.
    """
    known = {part for network in modules_in(thing) for part in network.modules()}
    strange: list[nn.Module] = []

    def look(module: nn.Module, _: Any) -> None:
        own = [*module._parameters.values(), *module._buffers.values()]
        if module not in known and any(one is not None for one in own):
            strange.append(module)

    handle = register_module_forward_pre_hook(look)
    try:
        yield
    finally:
        handle.remove()
    if strange:
        raise PluginError(
            f"{label} calls a network ({type(strange[0]).__name__}) that bench cannot see: its "
            "passes would not be counted, and its weights would be missing in the result's "
            "key. Make it when the file is loaded (NET = load() outside of all functions), or "
            "hold it as an attribute."
        )

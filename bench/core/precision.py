"""A defense whose networks run in low precision, for attacks to search on."""

from __future__ import annotations

import copy
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from bench.core.defense import Defense
from bench.core.device import lacks_memory, lost
from bench.core.networks import called_in
from bench.errors import PluginError


class Lowered(nn.Module):
    """A copy of a network in a low precision, between casts that gradients pass.

    The casts are operations like others, so that first and second derivatives are those of
    the low network, rounded to its precision.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).to(dtype)
        self.dtype = dtype
        self.training = network.training

    def forward(self, *given: Any, **named: Any) -> Any:
        """Return what the low network says, in the precision of the first tensor of floats."""
        floats = filter(_floats, tree_leaves((given, named)))
        whole = next((value.dtype for value in floats), torch.float32)
        low, low_named = tree_map(_to(self.dtype), (given, named))
        try:
            said = self.network(*low, **low_named)
        except RuntimeError as error:  # it makes float32 tensors of its own, or lacks a kernel
            if lacks_memory(error) or lost(error):
                raise
            raise PluginError(
                f"{type(self.network).__name__} cannot run in {_name(self.dtype)} ({error}). "
                "Search in float32."
            ) from error
        return tree_map(_to(whole), said)

    def __getattr__(self, name: str) -> Any:
        """Find what the network keeps and a purifier asks it for, such as noise levels."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("network"), name)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _floats(value: object) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.is_floating_point()


def _to(dtype: torch.dtype) -> Any:
    return lambda value: value.to(dtype) if _floats(value) else value


def lowered(defense: Defense, dtype: torch.dtype) -> Defense:
    """Copy a defense with its networks in a precision; raises PluginError.

    States, noise, sums and projections stay as they are, and so does the defense itself.
    """
    try:
        networks = {
            id(called): Lowered(called, dtype)
            for name, network in defense.networks().items()
            for called in called_in(network, name).values()
        }
        # The memo of a copy says what stands for what is met, wherever a purifier keeps it.
        return copy.deepcopy(defense, dict(networks))
    except Exception as error:  # a stranger's purifier may hold a lock, a file or a server
        raise PluginError(
            f"the defense cannot be copied for a search in {_name(dtype)} "
            f"({type(error).__name__}: {error}). Search in float32."
        ) from error

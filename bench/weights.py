"""Fit checkpoint tensors to a network, with an error that a user can act on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor, nn

from bench.errors import CheckpointError

Net = TypeVar("Net", bound=nn.Module)


def read_weights(net: Net, weights: Mapping[str, Tensor]) -> Net:
    """Load tensors into a network and return it; raises CheckpointError where they differ."""
    try:
        net.load_state_dict(dict(weights))
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise CheckpointError(
            f"the checkpoint does not fit the network {type(net).__name__}: "
            f"{' '.join(line.strip() for line in lines[1:4])} It was trained with other "
            "parameters or is another network's. Train again with `bench train`."
        ) from error
    return net

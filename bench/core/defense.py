"""A defense: a purifier in front of a classifier, as one ``nn.Module``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from bench.core.protocols import Purifier, SharingPurifier, SteppedPurifier, fits
from bench.core.rng import Rng
from bench.errors import CheckpointError, PluginError

Network = TypeVar("Network", bound=nn.Module)


def frozen(network: Network) -> Network:
    """Make a network what attacks and judge run, in place, and return it.

    Frozen and in evaluation mode, so that passes build no parameter graph and no row depends
    on its batch; channels last, the layout in which convolutions are fastest.
    """
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)


class Defense(nn.Module):
    """Classify after purify: images (N, C, H, W) in [0, 1] to logits (N, K), frozen."""

    def __init__(self, purifier: Purifier, classifier: nn.Module, *, seed: int = 0) -> None:
        super().__init__()
        self.purifier = purifier
        self.classifier = classifier
        self.seed = seed
        self._calls = 0
        frozen(self)

    @property
    def stochastic(self) -> bool:
        """Whether two passes over the same image may differ."""
        return self.purifier.stochastic

    def networks(self) -> dict[str, nn.Module]:
        """Name the networks whose passes are the cost of the defense."""
        named = {"classifier": self.classifier}
        if isinstance(self.purifier, nn.Module):
            named |= dict(self.purifier.named_children())
        return named

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Clean x (N, C, H, W) once per stream of rng (N * draws), draws side by side.

        The purifier gets a copy, into which it may write. Raises PluginError where streams do
        not fit images, or the purifier changes the shape.
        """
        draws, rest = divmod(len(rng), max(1, len(x)))
        if rest or draws < 1 <= len(x):
            raise PluginError(
                f"{len(rng)} streams of random numbers for {len(x)} images. Give a purifier "
                "one per image, or as many for each: see Rng.repeat."
            )
        expected = (len(rng), *x.shape[1:])
        if draws > 1 and fits(self.purifier, SharingPurifier):
            purified = self.purifier.purify_draws(x.clone(), rng=rng)
        else:
            rows = x.repeat_interleave(draws, dim=0) if draws > 1 else x.clone()
            purified = self.purifier.purify(rows, rng=rng)
        if purified.shape != expected:
            raise PluginError(
                f"the purifier returned shape {tuple(purified.shape)} for images {expected}. "
                "A purifier keeps the shape."
            )
        return purified

    def purification_step(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Take one step of a stepped purifier; another one's whole work is its step."""
        if fits(self.purifier, SteppedPurifier):
            return self.purifier.step(x, rng=rng)
        return self.purifier.purify(x, rng=rng)

    def classify(self, x: Tensor) -> Tensor:
        """Return the classifier's logits (N, K)."""
        logits: Tensor = self.classifier(x)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """Return logits with fresh noise at every call, for RobustBench and AutoAttack.

        The noise depends on the seed and the number of the call, never on torch's global
        generator, which AutoAttack reseeds.
        """
        rng = Rng.seeded(self.seed, torch.arange(len(x)), device=x.device)
        rng = rng.fork("forward", self._calls)
        self._calls += 1
        return self.classify(self.purify(x, rng=rng))


def read_weights(net: Network, weights: Mapping[str, Tensor]) -> Network:
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

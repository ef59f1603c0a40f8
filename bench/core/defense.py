"""A defense: a purifier in front of a classifier, as one ``nn.Module``."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import shorten
from typing import TypeVar

import torch
from torch import Tensor, nn

from bench.core.border import blamed, images_like, logits_of, purified
from bench.core.networks import called_networks, frozen_copies, modules_in
from bench.core.protocols import Purifier, SteppedPurifier, fits
from bench.core.rng import Rng
from bench.errors import CheckpointError

Network = TypeVar("Network", bound=nn.Module)
_SHOWN = 300  # characters of a list of names that differ


class Defense(nn.Module):
    """Classify after purify: images (N, C, H, W) in [0, 1] to logits (N, K), frozen.

    Networks that are not frozen yet are copied first: the caller's stay as they are.
    """

    def __init__(self, purifier: Purifier, classifier: nn.Module, *, seed: int = 0) -> None:
        super().__init__()
        self.purifier, self.classifier = frozen_copies(purifier, classifier)
        # What a purifier holds without registering it moves with the defense, too.
        known = set(self.modules())
        self.held = nn.ModuleList(m for m in modules_in(self.purifier) if m not in known)
        self.seed = seed
        self._calls = 0
        self.eval()

    @property
    def stochastic(self) -> bool:
        """Whether two passes over the same image may differ."""
        return self.purifier.stochastic

    def networks(self) -> dict[str, nn.Module]:
        """Name the networks whose passes are the cost of the defense, each once."""
        named = {"classifier": self.classifier}
        for name, network in called_networks(self.purifier).items():
            if network is not self.classifier:
                named[f"purifier.{name}" if name == "classifier" else name] = network
        return named

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Clean x (N, C, H, W) once per stream of rng (N * draws), draws side by side.

        Raises PluginError where streams do not fit images, or the purifier fails or returns
        anything but images of the same shape.
        """
        return purified(self.purifier, x, rng=rng)

    def purification_step(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Take one step of a stepped purifier; another one's whole work is its step."""
        if fits(self.purifier, SteppedPurifier):
            name = f"the purifier {type(self.purifier).__name__}"
            with blamed(name):
                found = self.purifier.step(x, rng=rng)
            return images_like(found, x, rows=len(x), whose=name)
        return purified(self.purifier, x, rng=rng)

    def classify(self, x: Tensor) -> Tensor:
        """Return the classifier's logits (N, K); raises PluginError for anything else."""
        return logits_of(self.classifier, x)

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
    """Load tensors into a network and return it; raises CheckpointError where they differ.

    Names may begin with what DataParallel or torch.compile put before all of them.
    """
    given = dict(weights)
    for prefix in ("module.", "_orig_mod.", "module."):
        if given and not set(given) & set(net.state_dict()):
            given = {name.removeprefix(prefix): tensor for name, tensor in given.items()}
    try:
        net.load_state_dict(given)
    except RuntimeError as error:
        lines = str(error).splitlines()[1:4]  # missing, unexpected, of another shape
        differ = " ".join(shorten(line, _SHOWN, placeholder=" ...") for line in lines)
        raise CheckpointError(
            f"the checkpoint does not fit the network {type(net).__name__}: {differ} It was "
            "trained with other parameters or is another network's. Train again with "
            "`bench train`."
        ) from error
    return net

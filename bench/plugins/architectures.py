"""Classifiers of torchvision and timm, with weights from a file."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import importlib.util
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchvision import models

from bench.errors import CheckpointError, UsageError
from bench.plugins.names import Typed, kept
from bench.plugins.state_dicts import fitted, read_state, renamed


class Normalized(nn.Module):
    """A network that was trained on normalized pixels: images (N, C, H, W) in [0, 1]."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", mean.reshape(1, -1, 1, 1))
        self.register_buffer("std", std.reshape(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (N, K)."""
        logits: Tensor = self.network((x - self.mean) / self.std)
        return logits


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A network of a library with weights of your own.

    ``mean`` and ``std`` of pixels in [0, 1], one number or one for each channel, are those that
    it was trained with; none: it was trained on [0, 1].
    """

    mean: list[float] = dataclasses.field(default_factory=list)
    std: list[float] = dataclasses.field(default_factory=list)

    revision: ClassVar[int] = 1
    library: ClassVar[str]
    name: ClassVar[str]
    weights: ClassVar[str]

    def network(self, *, shape: tuple[int, ...], classes: int) -> nn.Module:
        """Build the network and load its weights; raises UsageError or CheckpointError."""
        for name, numbers in (("mean", self.mean), ("std", self.std)):
            if len(numbers) not in (0, 1, shape[0]) or bool(self.mean) != bool(self.std):
                raise UsageError(
                    f"classifier.{name} has {len(numbers)} numbers. Give mean and std, each as "
                    f"a list of {shape[0]}, one for each channel, or of one."
                )
        state, whose = read_state(self.weights), f"{self.library}:{self.name}"
        made = self._built(shape, classes)
        known = _classes_of(state, made.state_dict(), classes)
        if known is not None and known < classes:
            raise CheckpointError(
                f"the weights in {Path(self.weights).name} know {known} classes, but the data "
                f"set has {classes}. Name weights that were trained on it."
            )
        if known is not None:
            made = self._built(shape, known)
        fitted(made, state, whose=whose, path=self.weights)
        if not self.mean:
            return made
        return Normalized(made, torch.tensor(self.mean), torch.tensor(self.std))

    def _built(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on initial weights, which are replaced
            made: nn.Module
            if self.library == "timm":
                made = _timm().create_model(
                    self.name, pretrained=False, num_classes=classes, in_chans=shape[0]
                )
            else:
                made = models.get_model(self.name, weights=None, num_classes=classes)
            return made


def architecture(typed: Typed) -> type[Architecture]:
    """Find a network of a library by name; raises UsageError."""
    known = _timm().list_models() if typed.source == "timm" else models.list_models(models)
    listing = f"{'timm' if typed.source == 'timm' else 'torchvision.models'}.list_models()"
    name = typed.name.partition(".")[0]  # timm adds which weights are meant
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        meant = f" Did you mean '{near[0]}'?" if near else ""
        raise UsageError(
            f"{typed.source} has no network '{typed.name}'.{meant} It has {len(known)}: "
            f"{listing} lists them."
        )
    if typed.weights is None:
        raise UsageError(
            f"{typed} needs weights: write {typed}=FILE, with a state dict (.pth) or a "
            ".safetensors file."
        )
    own = {"library": typed.source, "name": typed.name, "weights": typed.weights}
    return type(kept(str(typed)), (Architecture,), {"__doc__": Architecture.__doc__, **own})


def _timm() -> Any:
    if importlib.util.find_spec("timm") is None:
        raise UsageError("timm is not installed. Install it: pip install timm")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch on timm's own code
        return importlib.import_module("timm")


def _classes_of(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], classes: int
) -> int | None:
    """Return how many classes the weights have, where only that differs; else None."""
    given, found = renamed(state, wanted), set()
    for name, tensor in wanted.items():
        if name in given and given[name].shape != tensor.shape:
            if tensor.shape[:1] != (classes,) or given[name].shape[1:] != tensor.shape[1:]:
                return None
            found.add(len(given[name]))
    return found.pop() if len(found) == 1 else None

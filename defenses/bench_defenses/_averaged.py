"""What trainings of purifiers have: weights, their average, an optimiser, clipping."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from bench.api import PluginError, Task

Positive = Annotated[int, Field(ge=1)]
Scale = Annotated[float, Field(ge=0)]


@dataclass(frozen=True)
class AveragedRecipe:
    """How long and how fast a network is trained, and how wide it is."""

    iterations: Positive = 1500
    batch: Positive = 64
    lr: Annotated[float, Field(gt=0)] = 1e-3
    clip: Annotated[float, Field(gt=0)] = 1.0  # norm of the parameter gradient
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.99
    width: Positive = 16
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0


class AveragedTraining:
    """The common part of a training run of ``net``, by Adam with the given ``betas``.

    ``remedy`` tells the user what to change where a training diverges.
    """

    remedy: ClassVar[str] = "Lower defense.training.lr."

    def __init__(
        self, recipe: AveragedRecipe, task: Task, net: nn.Module, *, betas: tuple[float, float]
    ) -> None:
        self.task = task
        self.total = recipe.iterations
        self.step = 0
        self.net = net.to(task.device).to(memory_format=torch.channels_last)
        self.averaged = {name: value.clone() for name, value in net.state_dict().items()}
        self.optimizer = torch.optim.Adam(net.parameters(), lr=recipe.lr, betas=betas)
        self._latest: dict[str, Tensor] = {}
        self._common = recipe

    def anneal(self) -> None:
        """Set this iteration's learning rate, which falls to 0 as a cosine."""
        for group in self.optimizer.param_groups:
            group["lr"] = self._common.lr * (1 + math.cos(math.pi * self.step / self.total)) / 2

    def descend(self, loss: Tensor) -> None:
        """Take one step of the optimiser down a loss (), and average the weights."""
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's has no types
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), self._common.clip)
        self.optimizer.step()
        with torch.no_grad():  # in one launch
            values = self.net.state_dict()
            averages = [self.averaged[name] for name in values]
            torch._foreach_lerp_(averages, list(values.values()), 1 - self._common.ema)

    def metrics(self) -> dict[str, float]:
        """Report the latest figures; raises PluginError where they diverged."""
        found = {name: float(value) for name, value in self._latest.items()}
        if not all(abs(value) < 1e4 for value in found.values()):
            raise PluginError(
                f"training diverged at iteration {self.step}: {found}. {self.remedy}"
            )
        return found

    def state(self) -> dict[str, object]:
        """Return all that ``restore`` needs."""
        return {
            "step": self.step,
            "net": self.net.state_dict(),
            "averaged": self.averaged,
            "optimizer": self.optimizer.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue exactly where ``state`` was taken."""
        self.step = state["step"]
        self.net.load_state_dict(state["net"])
        self.averaged = state["averaged"]
        self.optimizer.load_state_dict(state["optimizer"])

    def weights(self) -> dict[str, Tensor]:
        """Return the averaged weights."""
        return self.averaged

    def finished(self) -> nn.Module:
        """Build the network of the averaged weights."""
        net = copy.deepcopy(self.net)
        net.load_state_dict(self.averaged)
        return net

"""Training in few epochs, as airbench does it (Jordan 2024, arXiv 2404.00498, section 3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from bench.api import Task
from bench_defenses._seeding import generator
from bench_defenses.classifiers.supervised import (
    InHalfPrecision,
    Positive,
    SupervisedRecipe,
    shifted,
)

_EVERY = 5  # iterations between two looks ahead
_SLOW = 0.95**_EVERY  # what the slow weights keep at the end


@dataclass(frozen=True)
class QuickRecipe(SupervisedRecipe):
    """SGD with Nesterov momentum and a triangular learning rate, on softened labels.

    ``lr`` and ``weight_decay`` are for the mean loss of a batch. ``flip`` mirrors every image
    in every other epoch. ``bias_lr`` multiplies the learning rate of biases. ``precision`` is
    that of the network's passes; the weights stay in float32 until the checkpoint, where
    tensors of two dimensions and more are in half precision.
    """

    epochs: Positive = 10
    batch: Positive = 1024
    lr: Annotated[float, Field(gt=0)] = 1.5
    weight_decay: Annotated[float, Field(ge=0)] = 1.33e-3
    shift: Annotated[int, Field(ge=0)] = 2
    flip: bool = True
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.85
    bias_lr: Annotated[float, Field(gt=0)] = 64.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.2
    precision: Literal["float32", "bfloat16"] = "float32"


class Quick(InHalfPrecision):
    """One such run; every fifth iteration looks ahead (Zhang et al. 2019, arXiv 1907.08610)."""

    recipe: QuickRecipe

    def __init__(self, recipe: QuickRecipe, task: Task, make: Callable[[], nn.Module]) -> None:
        super().__init__(recipe, task, make)
        self._slow = {name: value.clone() for name, value in self._averaged().items()}
        self._mirrored = torch.rand(
            len(task.train), generator=generator(recipe.seed, "mirrored")
        ).to(task.device)

    def make_optimizer(self) -> torch.optim.Optimizer:
        """Return SGD, with its own learning rate and the same decay for biases."""
        recipe, trained = self.recipe, [p for p in self.net.parameters() if p.requires_grad]
        fast = recipe.bias_lr
        groups: list[dict[str, Any]] = [
            {"params": [p for p in trained if p.ndim > 1]},
            {
                "params": [p for p in trained if p.ndim == 1],
                "lr": recipe.lr * fast,
                "weight_decay": recipe.weight_decay / fast,
            },
        ]
        return torch.optim.SGD(
            groups,
            lr=recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=recipe.momentum > 0,
        )

    def make_schedule(self) -> torch.optim.lr_scheduler.LRScheduler:
        """Rise from a fifth over 23 % of the training, and fall to 7 %."""
        peak = max(1, int(0.23 * self.total))

        def share(step: int) -> float:
            if step < peak:
                return 0.2 + 0.8 * step / peak
            return 1 - 0.93 * (step - peak) / max(1, self.total - peak)

        return torch.optim.lr_scheduler.LambdaLR(self.optimizer, share)

    def augmented(self, x: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Mirror half of the images, the other half in the next epoch, and shift each."""
        if self.recipe.flip:
            odd = self.step // self.per_epoch % 2 == 1
            mirrored = (self._mirrored[rows] < 0.5) ^ odd
            x = torch.where(mirrored.reshape(-1, 1, 1, 1), x.flip(3), x)
        reach = self.recipe.shift
        return shifted(x, reach, generator, border="reflect") if reach else x

    def loss(self, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        """Return the cross-entropy to soft labels, from passes in the recipe's precision."""
        with torch.autocast(
            x.device.type, torch.bfloat16, enabled=self.recipe.precision == "bfloat16"
        ):
            logits = self.net(x.contiguous(memory_format=torch.channels_last))
        return F.cross_entropy(logits.float(), y, label_smoothing=self.recipe.label_smoothing)

    def advance(self) -> None:
        """Do one iteration, and look ahead where it is time."""
        super().advance()
        if self.step % _EVERY == 0 or self.step == self.total:
            self._look_ahead()

    @torch.no_grad()
    def _look_ahead(self) -> None:
        """Move the slow weights toward the network's, and the network to the slow ones."""
        kept = _SLOW * (self.step / self.total) ** 3
        for name, value in self._averaged().items():
            value.copy_(self._slow[name].lerp_(value, 1 - kept))

    def _averaged(self) -> dict[str, Tensor]:
        return {k: v for k, v in self.net.state_dict().items() if v.is_floating_point()}

    def state(self) -> dict[str, object]:
        """Return all that ``restore`` needs."""
        return {**super().state(), "slow": self._slow}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue exactly where ``state`` was taken."""
        super().restore(state)
        for name, value in self._slow.items():
            value.copy_(state["slow"][name])

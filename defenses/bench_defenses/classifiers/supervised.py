"""Ordinary training of a classifier, with shifts and flips of the images."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from bench.api import Task
from bench_defenses._seeding import numbered, seeded

Positive = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class SupervisedRecipe:
    """How a classifier is trained: AdamW with a one-cycle learning rate."""

    epochs: Positive = 6
    batch: Positive = 128
    lr: Annotated[float, Field(gt=0)] = 3e-3  # the peak
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    shift: Annotated[int, Field(ge=0)] = 1  # pixels, each way
    flip: bool = False
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0


class Supervised:
    """One training run of a network on labelled images.

    Every iteration draws from a generator seeded by the seed and its own number, so a resumed
    run equals an uninterrupted one.
    """

    def __init__(
        self, recipe: SupervisedRecipe, task: Task, make: Callable[[], nn.Module]
    ) -> None:
        self.recipe = recipe
        self.task = task
        self.per_epoch = max(1, len(task.train) // recipe.batch)
        self.total = recipe.epochs * self.per_epoch
        self.step = 0
        with seeded(recipe.seed):
            self.net = make().to(task.device).to(memory_format=torch.channels_last)
        self.optimizer = self.make_optimizer()
        self.schedule = self.make_schedule()
        self._loss = torch.zeros(())
        self._order: tuple[int, Tensor] | None = None

    def make_optimizer(self) -> torch.optim.Optimizer:
        """Return AdamW on all parameters."""
        return torch.optim.AdamW(
            self.net.parameters(), lr=self.recipe.lr, weight_decay=self.recipe.weight_decay
        )

    def make_schedule(self) -> torch.optim.lr_scheduler.LRScheduler:
        """Return the one-cycle learning rate."""
        return torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, self.recipe.lr, total_steps=self.total
        )

    def advance(self) -> None:
        """Do one iteration."""
        data = self.task.train
        generator = numbered(self.recipe.seed, self.step)
        rows = self._rows().to(data.x.device)
        x = self.augmented(data.x[rows], rows, generator)
        self.net.train()
        x = self.perturbed(x, data.y[rows], generator)
        loss = self.loss(x, data.y[rows], generator)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's has no types
        self.optimizer.step()
        self.schedule.step()
        self._loss = loss.detach()
        self.step += 1

    def augmented(self, x: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Shift and mirror images x (N, C, H, W), which are these rows of the training."""
        return _augment(x, self.recipe, generator)

    def loss(self, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        """Return what is minimized on images (N, C, H, W) of labels (N,)."""
        return F.cross_entropy(self.net(x), y)

    def perturbed(self, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        """Return the images (N, C, H, W) to learn from: x itself, in ordinary training."""
        return x

    def _rows(self) -> Tensor:
        epoch, place = divmod(self.step, self.per_epoch)
        if self._order is None or self._order[0] != epoch:
            generator = numbered(self.recipe.seed, 2**31 + epoch)
            self._order = epoch, torch.randperm(len(self.task.train), generator=generator)
        return self._order[1][place * self.recipe.batch : (place + 1) * self.recipe.batch]

    def metrics(self) -> dict[str, float]:
        """Report the latest loss."""
        return {"loss": float(self._loss)}

    def state(self) -> dict[str, object]:
        """Return all that ``restore`` needs."""
        return {
            "step": self.step,
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue exactly where ``state`` was taken."""
        self.step = state["step"]
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])

    def weights(self) -> dict[str, Tensor]:
        """Return the network's tensors."""
        return self.net.state_dict()

    def finished(self) -> nn.Module:
        """Return the network as its checkpoint will have it."""
        return self.net

    def evaluate(self) -> dict[str, float]:
        """Measure the accuracy on held-out training images."""
        net, held_out = self.finished().eval(), self.task.validation
        with torch.no_grad():
            right = [
                (net(held_out.x[i : i + 500]).argmax(1) == held_out.y[i : i + 500]).sum()
                for i in range(0, len(held_out), 500)
            ]
        return {"validation accuracy": float(torch.stack(right).sum()) / len(held_out)}


class InHalfPrecision(Supervised):
    """A run whose checkpoint is small: tensors of two dimensions and more are rounded."""

    def weights(self) -> dict[str, Tensor]:
        """Return the network's tensors, the large ones in half precision."""
        return {k: v.half() if v.ndim > 1 else v for k, v in self.net.state_dict().items()}

    def finished(self) -> nn.Module:
        """Return the network of the rounded weights."""
        net = copy.deepcopy(self.net)
        net.load_state_dict(self.weights())
        return net


def _augment(x: Tensor, recipe: SupervisedRecipe, generator: torch.Generator) -> Tensor:
    """Shift each image by whole pixels, and mirror half of them, if the recipe asks for it."""
    if recipe.flip:
        mirrored = torch.rand(len(x), generator=generator).to(x.device) < 0.5
        x = torch.where(mirrored.reshape(-1, 1, 1, 1), x.flip(3), x)
    return shifted(x, recipe.shift, generator) if recipe.shift else x


def shifted(
    x: Tensor, reach: int, generator: torch.Generator, *, border: str = "constant"
) -> Tensor:
    """Shift each image by up to ``reach`` whole pixels; ``border`` as in torch's ``pad``."""
    height, width = x.shape[2:]
    padded = F.pad(x, (reach,) * 4, mode=border)
    offsets = torch.randint(2 * reach + 1, (2, len(x)), generator=generator).to(x.device)
    rows = (offsets[0][:, None] + torch.arange(height, device=x.device))[:, None, :, None]
    columns = (offsets[1][:, None] + torch.arange(width, device=x.device))[:, None, None, :]
    image = torch.arange(len(x), device=x.device).reshape(-1, 1, 1, 1)
    channel = torch.arange(x.shape[1], device=x.device).reshape(1, -1, 1, 1)
    return padded[image, channel, rows, columns]

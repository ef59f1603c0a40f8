"""Training of networks that are given spoiled images and shall return clean ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from bench.api import (
    Access,
    Negatives,
    Norm,
    PluginError,
    Task,
    ThreatModel,
    parse_eps,
    per_image,
)
from bench_defenses._averaged import AveragedRecipe, AveragedTraining, Positive, Scale
from bench_defenses._seeding import generator

HELD_OUT = 1000  # held-out images on which a finished network is measured


@dataclass(frozen=True)
class DenoiserRecipe(AveragedRecipe):
    """How a network learns to clean images, with Adam and a falling learning rate.

    ``precision`` is that of the network's passes in training; its weights are in float32.
    """

    iterations: Positive = 2000
    batch: Positive = 128
    lr: Annotated[float, Field(gt=0)] = 2e-3
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.99
    precision: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True)
class SpoiledRecipe(DenoiserRecipe):
    """Which images a network learns to clean; lengths in pixels of [0, 1].

    Normal noise is added on every pixel, sigma uniform in [``sigma_min``, ``sigma_max``] for
    each image. Where ``spoiled_by`` is attacks the first ``images`` training images also move
    toward AutoAttack's images of the bare classifier, by a fraction uniform in [0, 1].
    """

    spoiled_by: Literal["noise", "attacks"] = "noise"
    sigma_min: Scale = 0.1
    sigma_max: Scale = 0.3
    norm: Norm = Norm.LINF
    eps: str = "8/255"
    images: Positive = 5000

    def negatives(self) -> Negatives | None:
        """Ask for AutoAttack's images of the bare classifier where they are learned from."""
        if self.spoiled_by == "noise":
            return None
        eps = parse_eps(self.eps, self.norm)
        if eps is None:
            raise PluginError(
                "this training needs a finite eps: it learns the way back from bounded "
                "attacks. Set defense.training.eps to a finite radius."
            )
        return Negatives(ThreatModel(self.norm, eps, Access.TRANSFER), self.images)


class DenoiserTraining(AveragedTraining):
    """One training run; every iteration draws from a generator of its own number.

    So a resumed run equals an uninterrupted one.
    """

    def __init__(self, recipe: DenoiserRecipe, task: Task, net: nn.Module) -> None:
        super().__init__(recipe, task, net, betas=(0.9, 0.999))
        self._recipe = recipe
        self.images = len(task.train)  # of which the first ones are learned from

    def loss(self, rows: Tensor, chance: torch.Generator) -> Tensor:
        """Return the loss () on these rows of the training images (N,)."""
        raise NotImplementedError

    def advance(self) -> None:
        """Do one iteration."""
        recipe, device = self._recipe, self.task.train.x.device
        chance = generator(recipe.seed, "iteration", self.step)
        rows = torch.randint(self.images, (recipe.batch,), generator=chance).to(device)
        with torch.autocast(
            device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"
        ):
            loss = self.loss(rows, chance)
        self.anneal()
        self.descend(loss)
        self._latest = {"loss": loss.detach()}
        self.step += 1


class SpoiledTraining(DenoiserTraining):
    """A training on noisy images, or on attacked ones as well."""

    def __init__(self, recipe: SpoiledRecipe, task: Task, net: nn.Module) -> None:
        super().__init__(recipe, task, net)
        self.recipe = recipe
        self.displacement: Tensor | None = None
        if recipe.spoiled_by == "attacks":
            if task.adversarial is None:
                raise PluginError(
                    "this training learns from attacks on a classifier, and its task has no "
                    "adversarial images. Train it in front of a classifier, as `bench train` "
                    "does."
                )
            self.images = len(task.adversarial)
            self.displacement = task.adversarial - task.train.x[: self.images]

    def spoiled(self, rows: Tensor, chance: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return images (N, C, H, W) of these rows, spoiled and clean."""
        clean, recipe = self.task.train.x[rows], self.recipe
        sigma = recipe.sigma_min + (recipe.sigma_max - recipe.sigma_min) * torch.rand(
            len(rows), generator=chance
        )
        noise = torch.randn(clean.shape, generator=chance).to(clean)
        x = clean + per_image(sigma.to(clean), clean) * noise
        if self.displacement is not None:
            share = torch.rand(len(rows), generator=chance).to(clean)
            x = x + per_image(share, clean) * self.displacement[rows]
        return x.clamp(0, 1), clean

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Measure the squared error on held-out images with the largest noise, and its own."""
        clean = self.task.validation.x[:HELD_OUT]
        chance = generator(self.recipe.seed, "held out")
        noise = torch.randn(clean.shape, generator=chance).to(clean)
        noisy = (clean + self.recipe.sigma_max * noise).clamp(0, 1)
        cleaned = self.cleaned(self.finished().eval(), noisy)
        return {
            "squared error held out": float((cleaned - clean).square().mean()),
            "squared error of the noise": float((noisy - clean).square().mean()),
        }

    def cleaned(self, net: nn.Module, x: Tensor) -> Tensor:
        """Clean images (N, C, H, W) by a network of this training."""
        found: Tensor = net(x)
        return found

"""An energy trained by denoising score matching at many noise levels, without chains."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from bench.api import Task, per_image
from bench_defenses._averaged import AveragedRecipe, AveragedTraining
from bench_defenses._seeding import generator, seeded
from bench_defenses.energies.langevin import energy_gradient, mean_cosine
from bench_defenses.energies.network import EnergyNet

_HELD_OUT = 1000


@dataclass(frozen=True)
class DenoisingRecipe(AveragedRecipe):
    """How an energy learns which way noise came from; lengths in pixels of [0, 1].

    The deviation of the noise is log-uniform in [``sigma_min``, ``sigma_max``].
    """

    sigma_min: Annotated[float, Field(gt=0)] = 0.02
    sigma_max: Annotated[float, Field(gt=0)] = 0.3
    pull: Annotated[float, Field(gt=0)] = 0.04  # gradient per offset: 1 / sigma_0 squared

    def __post_init__(self) -> None:
        if self.sigma_min > self.sigma_max:
            raise ValueError(
                f"sigma_min {self.sigma_min} is above sigma_max {self.sigma_max}. "
                "Give the smaller deviation as sigma_min"
            )


class DenoisingScoreMatching(AveragedTraining):
    """One training run: grad E(x + sigma n) is fitted to ``pull`` sigma n.

    Li, Chen and Sommer 2019, arXiv 1910.07762, equation 7, with every noise level weighted by
    1 / sigma squared. Every iteration draws from a stream of the seed and its own number, so a
    resumed run equals an uninterrupted one.
    """

    def __init__(self, recipe: DenoisingRecipe, task: Task) -> None:
        self.recipe = recipe
        with seeded(recipe.seed):
            net = EnergyNet(tuple(task.train.x.shape[1:]), width=recipe.width)
        super().__init__(recipe, task, net, betas=(0.9, 0.999))

    def advance(self) -> None:
        """Do one iteration; the learning rate falls to 0 as a cosine."""
        recipe, data = self.recipe, self.task.train
        chance = generator(recipe.seed, "iteration", self.step)
        rows = torch.randint(len(data), (recipe.batch,), generator=chance).to(data.x.device)
        x = data.x[rows]
        loss, cosine = self.misfit(self.net, x, self.noise(x, chance), create_graph=True)
        self.anneal()
        self.descend(loss)
        self._latest = {"loss": loss.detach(), "cosine": cosine.detach()}
        self.step += 1

    def noise(self, x: Tensor, chance: torch.Generator) -> Tensor:
        """Draw noise for images x (N, C, H, W), of another deviation for each."""
        low, high = math.log(self.recipe.sigma_min), math.log(self.recipe.sigma_max)
        sigma = (low + (high - low) * torch.rand(len(x), generator=chance)).exp().to(x)
        return per_image(sigma, x) * torch.randn(x.shape, generator=chance).to(x)

    def misfit(
        self, net: nn.Module, x: Tensor, offset: Tensor, *, create_graph: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Return the loss and the mean cosine of gradient and offset (N, C, H, W), both ().

        The loss is the mean over images of the squared error, as a share of that of a zero
        gradient: 1 for a flat energy, 0 for one that points back exactly.
        """
        slope = energy_gradient(net, x + offset, create_graph=create_graph)
        goal = self.recipe.pull * offset
        error = (slope - goal).square().flatten(1).sum(1) / goal.square().flatten(1).sum(1)
        return error.mean(), mean_cosine(slope, offset)

    def evaluate(self) -> dict[str, float]:
        """Measure loss and cosine on noisy held-out images."""
        x = self.task.validation.x[:_HELD_OUT]
        offset = self.noise(x, generator(self.recipe.seed, "held out"))
        loss, cosine = self.misfit(self.finished(), x, offset)
        return {"loss held out": float(loss), "cosine held out": float(cosine)}

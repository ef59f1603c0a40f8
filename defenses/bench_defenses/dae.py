"""A denoising autoencoder in front of the classifier: the reformer of MagNet.

Meng and Chen 2017, arXiv 1705.09064, section 4.3. Trained on attacked images
(``training.spoiled_by=attacks``) it learns the way back from attacks, as MagNet does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bench.api import Rng, Task, read_weights
from bench_defenses._recipe import recipe
from bench_defenses._seeding import seeded
from bench_defenses.denoisers.autoencoder import Autoencoder
from bench_defenses.denoisers.defense import OnSpoiledImages
from bench_defenses.denoisers.training import SpoiledRecipe, SpoiledTraining


class Reformer(nn.Module):
    """Replace every image by what an autoencoder makes of it."""

    stochastic = False
    differentiable = True

    def __init__(self, denoiser: Autoencoder) -> None:
        super().__init__()
        self.denoiser = denoiser

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Return the autoencoder's images (N, C, H, W) in [0, 1]."""
        cleaned: Tensor = self.denoiser(x)
        return cleaned


@dataclass(frozen=True)
class Dae(OnSpoiledImages):
    """A denoising autoencoder, one pass: the reformer of MagNet (Meng and Chen 2017)."""

    training: SpoiledRecipe = field(default_factory=SpoiledRecipe)

    revision: ClassVar[int] = 1
    kind: ClassVar[str] = "learned"
    source: ClassVar[str] = "Meng and Chen 2017, MagNet, arXiv 1705.09064"
    stochastic: ClassVar[bool] = False

    @staticmethod
    def recipe(dataset: str) -> dict[str, Any]:
        """Return the shipped parameters for a data set."""
        return recipe("dae", dataset)

    def passes(self) -> dict[str, int]:
        """Count the passes of one purification, per image."""
        return {"denoiser forward": 1}

    def start(self, task: Task) -> DaeTraining:
        """Begin training."""
        return DaeTraining(self.training, task)

    def load(self, weights: Mapping[str, Tensor], *, shape: tuple[int, ...]) -> Reformer:
        """Build the purifier; raises CheckpointError where the weights do not fit."""
        return Reformer(read_weights(Autoencoder(shape, width=self.training.width), weights))


class DaeTraining(SpoiledTraining):
    """One training run: the mean squared error between cleaned and clean images falls."""

    def __init__(self, recipe: SpoiledRecipe, task: Task) -> None:
        with seeded(recipe.seed):
            net = Autoencoder(tuple(task.train.x.shape[1:]), width=recipe.width)
        super().__init__(recipe, task, net)

    def loss(self, rows: Tensor, chance: torch.Generator) -> Tensor:
        """Return the mean squared error () on these rows of the training images (N,)."""
        x, clean = self.spoiled(rows, chance)
        cleaned: Tensor = self.net(x)
        return (cleaned.float() - clean).square().mean()

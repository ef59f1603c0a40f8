"""What defenses with a trained denoiser have in common, beside what they do with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from bench.api import Negatives, Task, read_weights
from bench_defenses._recipe import recipe
from bench_defenses.denoisers.diffusion import DiffusionRecipe, DiffusionTraining
from bench_defenses.denoisers.training import SpoiledRecipe
from bench_defenses.denoisers.unet import UNet


class OnSpoiledImages:
    """A defense whose network learns the way back from noise or from attacked images."""

    training: SpoiledRecipe

    differentiable: ClassVar[bool] = True

    @property
    def needs_classifier(self) -> bool:
        """Whether the training attacks a classifier."""
        return self.training.spoiled_by == "attacks"

    def negatives(self) -> Negatives | None:
        """Ask for AutoAttack's images of the bare classifier where they are learned from."""
        return self.training.negatives()


class OnDiffusion:
    """A defense with the network of ``diffusion``: they share its checkpoint."""

    training: DiffusionRecipe

    stochastic: ClassVar[bool] = True
    differentiable: ClassVar[bool] = True
    needs_classifier: ClassVar[bool] = False
    trained_as: ClassVar[str] = "diffusion"

    def negatives(self) -> None:
        """Ask for no adversarial images."""

    def start(self, task: Task) -> DiffusionTraining:
        """Begin training."""
        return DiffusionTraining(self.training, task)

    def denoiser(self, weights: Mapping[str, Tensor], shape: tuple[int, ...]) -> UNet:
        """Load the network for images (C, H, W); raises CheckpointError where it differs."""
        return read_weights(UNet(shape[0], width=self.training.width), weights)


def recipe_on_diffusion(name: str, dataset: str) -> dict[str, Any]:
    """Return a plugin's parameters in a recipe, with the training of ``diffusion``."""
    training = recipe("diffusion", dataset).get("training", {})
    return {**recipe(name, dataset), "training": training}

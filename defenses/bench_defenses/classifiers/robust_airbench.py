"""The network of airbench trained on attacked images: the reference on CIFAR-10."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from bench.api import Norm, Task, parse_eps
from bench_defenses._recipe import recipe
from bench_defenses.classifiers.airbench import Airbench
from bench_defenses.classifiers.quick import Quick, QuickRecipe
from bench_defenses.classifiers.robust_cnn import accuracy_under_pgd
from bench_defenses.classifiers.supervised import Positive


@dataclass(frozen=True)
class NoisyFgsmRecipe(QuickRecipe):
    """Training in few epochs on the images of N-FGSM in an Linf ball of radius ``eps``.

    ``eps`` in pixels of [0, 1]. ``noise``: half the width of the noise that an image gets
    before its gradient is taken, in radii.
    """

    batch: Positive = 512
    lr: Annotated[float, Field(gt=0)] = 0.75  # half of airbench's: the batch is half as large
    eps: str = "8/255"
    noise: Annotated[float, Field(ge=0)] = 2.0


@dataclass(frozen=True)
class RobustAirbench(Airbench):
    """The CIFAR network of airbench94, adversarially trained (de Jorge et al. 2022)."""

    training: NoisyFgsmRecipe = field(default_factory=NoisyFgsmRecipe)

    revision: ClassVar[int] = 1
    kind: ClassVar[str] = "references"
    source: ClassVar[str] = "de Jorge et al. 2022, N-FGSM, arXiv 2202.01181"

    @staticmethod
    def recipe(dataset: str) -> dict[str, Any]:
        """Return the shipped parameters for a data set."""
        return recipe("robust_airbench", dataset)

    def start(self, task: Task) -> NoisyFgsm:
        """Begin training."""
        return NoisyFgsm(self.training, task, lambda: self.untrained(task))


class NoisyFgsm(Quick):
    """Training on x + eta + eps sign(grad L(x + eta)): de Jorge et al. 2022, algorithm 1.

    eta is uniform noise, and neither it nor the sum is projected back into the ball: with
    stronger noise a single step does not overfit (arXiv 2202.01181, section 4).
    """

    recipe: NoisyFgsmRecipe

    def perturbed(self, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        """Attack images (N, C, H, W) of labels (N,) by one step from noise."""
        radius = self._radius()
        noise = 2 * torch.rand(x.shape, generator=generator).to(x) - 1
        leaf = (x + self.recipe.noise * radius * noise).requires_grad_()
        (gradient,) = torch.autograd.grad(self.loss(leaf, y, generator), leaf)
        return (leaf + radius * gradient.sign()).clamp(0, 1).detach()

    def evaluate(self) -> dict[str, float]:
        """Measure the accuracy on held-out images, clean and under ten steps of PGD."""
        radius = self._radius()
        attacked = accuracy_under_pgd(
            self.finished().eval(),
            self.task.validation,
            radius=radius,
            step_size=radius / 4,
            steps=10,
            seed=self.recipe.seed,
        )
        return {**super().evaluate(), "validation accuracy under PGD": attacked}

    def _radius(self) -> float:
        return float(parse_eps(self.recipe.eps, Norm.LINF) or 0)

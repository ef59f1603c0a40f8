"""The small convolutional classifier trained on attacked images: robust without a purifier."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from bench.api import Images, Norm, Task, parse_eps, project
from bench_defenses._recipe import recipe
from bench_defenses.classifiers.small_cnn import SmallCnn, SmallCnnNet
from bench_defenses.classifiers.supervised import Positive, Supervised, SupervisedRecipe


@dataclass(frozen=True)
class RobustRecipe(SupervisedRecipe):
    """Supervised training on the images of PGD in an Linf ball (Madry et al. 2018).

    ``eps`` and ``step_size`` in pixels of [0, 1]; both grow from 0 over the first ``warm_up``
    of the training: in a large ball an untrained network learns nothing.
    """

    eps: str = "8/255"
    steps: Positive = 7
    step_size: Annotated[float, Field(gt=0)] = 2 / 255
    warm_up: Annotated[float, Field(ge=0, le=1)] = 0.5


@dataclass(frozen=True)
class RobustCnn(SmallCnn):
    """Three convolutions and two linear layers, adversarially trained (Madry et al. 2018)."""

    training: RobustRecipe = field(default_factory=RobustRecipe)

    revision: ClassVar[int] = 1
    kind: ClassVar[str] = "references"
    source: ClassVar[str] = "Madry et al. 2018, arXiv 1706.06083"

    @staticmethod
    def recipe(dataset: str) -> dict[str, Any]:
        """Return the shipped parameters for a data set."""
        return recipe("robust_cnn", dataset)

    def start(self, task: Task) -> AdversarialTraining:
        """Begin training."""
        shape = tuple(task.train.x.shape[1:])
        return AdversarialTraining(
            self.training,
            task,
            lambda: SmallCnnNet(shape, classes=task.classes, width=self.width),
        )


class AdversarialTraining(Supervised):
    """Supervised training in which every batch is attacked by PGD first."""

    recipe: RobustRecipe

    def perturbed(self, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        """Attack images (N, C, H, W) of labels (N,), in a ball that grows with the step."""
        share = self.share()
        return pgd(
            self.net,
            x,
            y,
            radius=share * self._radius(),
            step_size=share * self.recipe.step_size,
            steps=self.recipe.steps,
            generator=generator,
        )

    def share(self) -> float:
        """Return the part of radius and step size that is used at this step."""
        return min(1.0, self.step / max(1.0, self.recipe.warm_up * self.total))

    def evaluate(self) -> dict[str, float]:
        """Measure the accuracy on held-out training images, clean and under the same PGD."""
        found = super().evaluate()
        attacked = accuracy_under_pgd(
            self.finished(),
            self.task.validation,
            radius=self._radius(),
            step_size=self.recipe.step_size,
            steps=self.recipe.steps,
            seed=self.recipe.seed,
        )
        return {**found, "validation accuracy under PGD": attacked}

    def _radius(self) -> float:
        return float(parse_eps(self.recipe.eps, Norm.LINF) or 0)


def accuracy_under_pgd(
    net: nn.Module, images: Images, *, radius: float, step_size: float, steps: int, seed: int
) -> float:
    """Return the share of images (N, C, H, W) that are still right under PGD in an Linf ball.

    ``radius`` and ``step_size`` in pixels of [0, 1]. The network keeps the mode it is in.
    """
    generator, right = torch.Generator().manual_seed(seed), 0
    for start in range(0, len(images), 500):
        block = images[start : start + 500]
        x_adv = pgd(
            net,
            block.x,
            block.y,
            radius=radius,
            step_size=step_size,
            steps=steps,
            generator=generator,
        )
        with torch.no_grad():
            right += int((net(x_adv).argmax(1) == block.y).sum())
    return right / len(images)


def pgd(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    radius: float,
    step_size: float,
    steps: int,
    generator: torch.Generator,
) -> Tensor:
    """Climb the cross-entropy from a random place in the Linf ball of x (N, C, H, W).

    ``y`` (N,) are labels; ``radius`` and ``step_size`` in pixels of [0, 1]. Returns images
    (N, C, H, W) in the ball and in [0, 1].
    """
    start = 2 * torch.rand(x.shape, generator=generator).to(x) - 1
    x_adv = (x + radius * start).clamp(0, 1)
    for _ in range(steps):
        leaf = x_adv.requires_grad_()
        loss = F.cross_entropy(net(leaf), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, leaf)
        x_adv = project(leaf.detach() + step_size * gradient.sign(), x, Norm.LINF, radius)
    return x_adv.detach()

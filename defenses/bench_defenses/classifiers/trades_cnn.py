"""The small classifier, trained by TRADES: accuracy against agreement within the ball."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from bench.api import Norm, Task, project
from bench_defenses._recipe import recipe
from bench_defenses.classifiers.robust_cnn import AdversarialTraining, RobustRecipe
from bench_defenses.classifiers.small_cnn import SmallCnn, SmallCnnNet
from bench_defenses.classifiers.supervised import InHalfPrecision

_START = 1e-3  # standard deviation of the noise from which the attack starts


@dataclass(frozen=True)
class TradesRecipe(RobustRecipe):
    """TRADES in an Linf ball that grows as in adversarial training (algorithm 1).

    ``beta`` (1/lambda) weighs the divergence of attacked from clean images. ``precision`` is
    that of the network's passes in training; its weights are in float32 until the checkpoint,
    where tensors of two dimensions and more are in half precision.
    """

    beta: Annotated[float, Field(gt=0)] = 6.0
    precision: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True)
class TradesCnn(SmallCnn):
    """Three convolutions and two linear layers, trained by TRADES (Zhang et al. 2019)."""

    training: TradesRecipe = field(default_factory=TradesRecipe)

    revision: ClassVar[int] = 1
    kind: ClassVar[str] = "references"
    source: ClassVar[str] = "Zhang et al. 2019, TRADES, arXiv 1901.08573"

    @staticmethod
    def recipe(dataset: str) -> dict[str, Any]:
        """Return the shipped parameters for a data set."""
        return recipe("trades_cnn", dataset)

    def start(self, task: Task) -> Trades:
        """Begin training."""
        shape = tuple(task.train.x.shape[1:])
        return Trades(
            self.training,
            task,
            lambda: SmallCnnNet(shape, classes=task.classes, width=self.width),
        )


class Trades(InHalfPrecision, AdversarialTraining):
    """CE(f(x), y) + beta KL(f(x) | f(x')): Zhang et al. 2019, arXiv 1901.08573, algorithm 1."""

    recipe: TradesRecipe

    def perturbed(self, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        """Return the images x (N, C, H, W) themselves: the loss needs them clean too."""
        return x

    def loss(self, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        """Return the mean loss on images (N, C, H, W) of labels (N,)."""
        x_adv = self.furthest(x, generator, share=self.share())
        clean = self._logits(x)
        apart = _divergence(self._logits(x_adv), clean) / len(x)
        return F.cross_entropy(clean, y) + self.recipe.beta * apart

    def furthest(self, x: Tensor, generator: torch.Generator, *, share: float) -> Tensor:
        """Climb from images x (N, C, H, W) to where the network says something else.

        ``share`` is the part of radius and step size that is used.
        """
        radius = share * self._radius()
        with torch.no_grad():
            clean = self._logits(x)
        noise = torch.randn(x.shape, generator=generator).to(x)
        x_adv = project(x + _START * noise, x, Norm.LINF, radius)
        for _ in range(self.recipe.steps):
            leaf = x_adv.requires_grad_()
            apart = _divergence(self._logits(leaf), clean)
            (gradient,) = torch.autograd.grad(apart, leaf)
            x_adv = leaf.detach() + share * self.recipe.step_size * gradient.sign()
            x_adv = project(x_adv, x, Norm.LINF, radius)
        return x_adv.detach()

    def _logits(self, x: Tensor) -> Tensor:
        with torch.autocast(
            x.device.type, torch.bfloat16, enabled=self.recipe.precision == "bfloat16"
        ):
            logits: Tensor = self.net(x)
        return logits.float()


def _divergence(logits: Tensor, clean: Tensor) -> Tensor:
    """Sum KL(clean | other) over images, of logits (N, K) each."""
    return F.kl_div(
        logits.log_softmax(1), clean.log_softmax(1), reduction="sum", log_target=True
    )

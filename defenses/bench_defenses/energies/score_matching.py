"""An energy whose gradient is fitted to point back to the clean image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from bench.api import (
    Norm,
    PluginError,
    Rng,
    Task,
    cross_entropy,
    parse_eps,
    per_image,
    project,
    steepest,
)
from bench_defenses._averaged import AveragedRecipe, AveragedTraining, Positive, Scale
from bench_defenses._seeding import generator, seeded
from bench_defenses.energies.langevin import LangevinPurifier, energy_gradient, mean_cosine
from bench_defenses.energies.network import EnergyNet
from bench_defenses.energies.random_signs import random_signs

_HELD_OUT = 1000


@dataclass(frozen=True)
class ScoreRecipe(AveragedRecipe):
    """How an energy learns to point back; lengths in pixels of [0, 1].

    With ``online_steps`` above 0, ``online_share`` of each batch is displaced by an attack of
    that many steps on the classifier behind ``online_purify`` Langevin steps, of size
    ``online_step_size`` and noise ``online_noise``, on the energy as it is then.
    """

    sigma: Scale = 0.05  # of the normal noise on every pixel
    pull: Annotated[float, Field(gt=0)] = 0.04  # gradient per offset
    norm: Norm = Norm.LINF
    eps: str = "8/255"
    images: Positive = 5000  # training images to attack, the first ones
    online_steps: Annotated[int, Field(ge=0)] = 0
    online_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    online_purify: Positive = 3
    # With this pull a step of 40 goes past the clean image; three of 17 go as far as ten of 5.
    online_step_size: Scale = 40.0
    online_noise: Scale = 0.01


class ScoreMatching(AveragedTraining):
    """One training run: grad E(x + o) is fitted to ``pull`` o, with offsets o = u d + sigma n.

    d is the displacement of an attack on x, u uniform in [0, 1] and n standard normal. So a
    step of size s moves back by s ``pull`` of the offset. Every iteration draws from streams of
    the seed and its own number, so a resumed run equals an uninterrupted one.
    """

    remedy: ClassVar[str] = "Lower defense.training.lr."

    def __init__(self, recipe: ScoreRecipe, task: Task) -> None:
        eps = parse_eps(recipe.eps, recipe.norm)
        if task.classifier is None or task.adversarial is None:
            raise PluginError(
                "this training fits an energy to attacks on a classifier, and its task has no "
                "classifier or no adversarial images of it. Train it in front of a classifier, "
                "as `bench train` does."
            )
        if eps is None:
            raise PluginError(
                "this training needs a finite eps: it learns the way back from bounded "
                "attacks. Set defense.training.eps to a finite radius."
            )
        self.recipe = recipe
        self.radius = float(eps)
        self.classifier: nn.Module = task.classifier
        self.displacement = task.adversarial - task.train.x[: len(task.adversarial)]
        self.online = round(recipe.online_share * recipe.batch) if recipe.online_steps else 0
        with seeded(recipe.seed):
            shape = tuple(task.train.x.shape[1:])
            net = EnergyNet(shape, width=recipe.width)
        super().__init__(recipe, task, net, betas=(0.9, 0.999))

    def advance(self) -> None:
        """Do one iteration; the learning rate falls to 0 as a cosine."""
        recipe, data = self.recipe, self.task.train
        chance, device = generator(recipe.seed, "iteration", self.step), data.x.device
        rows = torch.randint(
            len(self.displacement), (recipe.batch - self.online,), generator=chance
        ).to(device)
        x, displaced = data.x[rows], self.displacement[rows]
        if self.online:
            rows = torch.randint(len(data), (self.online,), generator=chance).to(device)
            clean = data.x[rows]
            found = self.attack(clean, data.y[rows])
            x = torch.cat((x, clean))
            displaced = torch.cat((displaced, found - clean))
        share = torch.rand(len(x), generator=chance).to(device)
        normal = torch.randn(x.shape, generator=chance).to(device)
        offset = per_image(share, x) * displaced + recipe.sigma * normal
        loss, cosine = self.misfit(self.net, x, offset, create_graph=True)
        self.anneal()
        self.descend(loss)
        self._latest = {"loss": loss.detach(), "cosine": cosine.detach()}
        self.step += 1

    def misfit(
        self, net: nn.Module, x: Tensor, offset: Tensor, *, create_graph: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Return the loss and the mean cosine of gradient and offset (N, C, H, W), both ().

        The loss is the squared error summed over pixels, as a share of that of a zero gradient:
        1 for a flat energy, 0 for one that points back exactly.
        """
        slope = energy_gradient(net, x + offset, create_graph=create_graph)
        goal = self.recipe.pull * offset
        error = (slope - goal).square().sum() / goal.square().sum().clamp_min(1e-12)
        return error, mean_cosine(slope, offset)

    def attack(self, x: Tensor, y: Tensor) -> Tensor:
        """Attack the classifier behind the energy as it is now, from a random start.

        In L2 the start is drawn in a cube and projected: nearly always it is on the sphere.

        Images x (N, C, H, W) of classes y (N,) move by ``online_steps`` steepest steps up the
        cross entropy, by the exact gradient through the purification, within ball and [0, 1].
        """
        recipe, norm, radius = self.recipe, self.recipe.norm, self.radius
        purifier = LangevinPurifier(
            self.net,
            steps=recipe.online_purify,
            step_size=recipe.online_step_size,
            noise=recipe.online_noise,
        )
        rng = Rng.seeded(recipe.seed, torch.arange(len(x)), device=x.device)
        rng = rng.fork("online", self.step)
        start = 2 * rng.fork("start").uniform_like(x) - 1
        x_adv = project(x + radius * start, x, norm, radius)
        self.net.requires_grad_(False)
        for step in range(recipe.online_steps):
            x_adv.requires_grad_()
            purified = purifier.purify(x_adv, rng=rng.fork("purify", step))
            loss = cross_entropy(self.classifier(purified), y).sum()
            (gradient,) = torch.autograd.grad(loss, x_adv)
            length = 2.5 * radius / recipe.online_steps
            x_adv = project(x_adv.detach() + length * steepest(gradient, norm), x, norm, radius)
        self.net.requires_grad_(True)
        return x_adv

    def evaluate(self) -> dict[str, float]:
        """Measure loss and cosine on held-out images that random signs of size eps moved."""
        x = self.task.validation.x[:_HELD_OUT]
        moved = random_signs(
            x,
            norm=self.recipe.norm,
            radius=self.radius,
            generator=generator(self.recipe.seed, "held out"),
        )
        loss, cosine = self.misfit(self.finished(), x, moved - x)
        return {"loss held out": float(loss), "cosine held out": float(cosine)}

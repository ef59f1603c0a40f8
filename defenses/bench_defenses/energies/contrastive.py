"""Contrastive divergence with a replay bank, and with adversarial negatives where given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from bench.api import Task
from bench_defenses._averaged import AveragedRecipe, AveragedTraining, Positive, Scale
from bench_defenses._seeding import numbered, seeded
from bench_defenses._sending import sent
from bench_defenses.energies.graphs import Replayed
from bench_defenses.energies.langevin import energy_gradient
from bench_defenses.energies.network import EnergyNet


@dataclass(frozen=True)
class ContrastiveRecipe(AveragedRecipe):
    """How an energy is trained by contrastive divergence; lengths in pixels of [0, 1]."""

    energy_l2: Scale = 0.1
    chain_steps: Positive = 20
    chain_step_size: Annotated[float, Field(gt=0)] = 5.0
    chain_clamp: Annotated[float, Field(gt=0)] = 0.03  # of the pixel gradient, per pixel
    chain_noise: Scale = 0.005
    data_noise: Scale = 0.01
    bank: Positive = 4000
    fresh: Annotated[float, Field(ge=0, le=1)] = 0.05


class ContrastiveDivergence(AveragedTraining):
    """One training run: low energy on data, high energy on chains from the bank.

    ``negatives`` (M, C, H, W) are adversarial images; they fill the share p of the fake batch,
    with the same noise as the data, and never enter the bank. Every iteration draws from a
    generator of its own number, so a resumed run equals an uninterrupted one.
    """

    remedy: ClassVar[str] = "Lower defense.training.lr or raise defense.training.chain_steps."

    def __init__(
        self,
        recipe: ContrastiveRecipe,
        task: Task,
        *,
        negatives: Tensor | None = None,
        share: float = 0.0,
    ) -> None:
        self.recipe = recipe
        self.negatives = negatives
        # At least one chain stays in the fake batch, or the bank would never change.
        wanted = round(share * recipe.batch) if negatives is not None else 0
        self.adversarial = min(wanted, recipe.batch - 1)
        shape = tuple(task.train.x.shape[1:])
        with seeded(recipe.seed):
            net = EnergyNet(shape, width=recipe.width)
            self.bank = torch.rand(recipe.bank, *shape).to(task.device)
        super().__init__(recipe, task, net, betas=(0.0, 0.999))
        self._chain_step = Replayed(self._moved)

    def advance(self) -> None:
        """Do one iteration."""
        recipe, data = self.recipe, self.task.train.x
        # The seed changes only the first weights and the first bank: torch reads only the lower
        # 32 bits here. A fix would give other energies than those that ship.
        generator = numbered(recipe.seed, self.step)

        def normal(n: int, scale: float) -> Tensor:
            return scale * torch.randn(n, *data.shape[1:], generator=generator)

        rows = torch.randint(len(data), (recipe.batch,), generator=generator)
        offset = normal(recipe.batch, recipe.data_noise)
        slots = torch.randperm(recipe.bank, generator=generator)
        slots = slots[: recipe.batch - self.adversarial]
        chains = len(slots)  # a small bank has fewer
        renewed = torch.rand(chains, generator=generator) < recipe.fresh
        noise = torch.rand(chains, *data.shape[1:], generator=generator)
        moves = [normal(chains, recipe.chain_noise) for _ in range(recipe.chain_steps)]
        picked, shift = rows[:0], offset[:0]
        if self.negatives is not None and self.adversarial:
            picked = torch.randint(
                len(self.negatives), (self.adversarial,), generator=generator
            )
            shift = normal(self.adversarial, recipe.data_noise)
        rows, slots, picked, offset, noise, shift, *moves, renewed = sent(
            [rows, slots, picked, offset, noise, shift, *moves, renewed], data.device
        )
        real = data[rows] + offset
        start = torch.where(renewed.reshape(-1, 1, 1, 1), noise, self.bank[slots])
        fake = self._chains(start, moves)
        self.bank[slots] = fake
        if self.negatives is not None and self.adversarial:
            fake = torch.cat((fake, self.negatives[picked] + shift))
        self._descend(real, fake)
        self.step += 1

    def _chains(self, x: Tensor, moves: list[Tensor]) -> Tensor:
        """Take a step of each chain x (N, C, H, W) for each of the random moves."""
        self.net.requires_grad_(False)
        for move in moves:
            x = self._chain_step(x, move)
        self.net.requires_grad_(True)
        return x

    def _moved(self, x: Tensor, move: Tensor) -> Tensor:
        recipe = self.recipe
        slope = energy_gradient(self.net, x).clamp(-recipe.chain_clamp, recipe.chain_clamp)
        return (x - recipe.chain_step_size * slope + move).clamp(0.0, 1.0)

    def _descend(self, real: Tensor, fake: Tensor) -> None:
        energies = self.net(torch.cat((real, fake)))
        low, high = energies[: len(real)], energies[len(real) :]
        gap = low.mean() - high.mean()
        size = low.square().mean() + high.square().mean()
        loss = gap + self.recipe.energy_l2 * size
        self.descend(loss)
        self._latest = {"loss": loss.detach(), "gap": -gap.detach()}
        if self.adversarial:
            chains = high[: -self.adversarial].detach().mean()
            self._latest["adv gap"] = (
                high[-self.adversarial :].detach().mean() - low.detach().mean()
            )
            self._latest["gap"] = chains - low.detach().mean()

    def state(self) -> dict[str, object]:
        """Return all that ``restore`` needs."""
        return {**super().state(), "bank": self.bank}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue exactly where ``state`` was taken."""
        super().restore(state)
        self.bank = state["bank"]

    def evaluate(self) -> dict[str, float]:
        """Measure mean energies of held-out images and of bank states."""
        net = self.finished()
        with torch.no_grad():
            held_out = net(self.task.validation.x[:1000]).mean()
            bank = net(self.bank[:1000]).mean()
        return {"energy held out": float(held_out), "energy bank": float(bank)}

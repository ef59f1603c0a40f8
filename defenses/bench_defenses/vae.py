"""A variational autoencoder from attacked images to clean ones: Defense-VAE.

Li and Ji 2019, arXiv 1812.06570, section 3: the encoder sees an attacked image, the decoder's
target is the clean one. A code is drawn for every purification.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from bench.api import Rng, Task, read_weights
from bench_defenses._averaged import Positive, Scale
from bench_defenses._recipe import recipe
from bench_defenses._seeding import seeded
from bench_defenses.denoisers.autoencoder import Decoder, Encoder, halved
from bench_defenses.denoisers.defense import OnSpoiledImages
from bench_defenses.denoisers.training import SpoiledRecipe, SpoiledTraining

_LARGEST = 8.0  # magnitude of a code's log variance: beyond it exp means nothing


@dataclass(frozen=True)
class VaeRecipe(SpoiledRecipe):
    """How it is trained, with ``code`` numbers an image and ``kl`` the weight of the prior.

    Reconstruction is the cross-entropy of all pixels together, in nats.
    """

    spoiled_by: Literal["noise", "attacks"] = "attacks"
    sigma_min: Scale = 0.0
    sigma_max: Scale = 0.1
    code: Positive = 64
    kl: Annotated[float, Field(gt=0)] = 1.0


class Vae(nn.Module):
    """Draw a code of each image, and return the image that the decoder makes of it."""

    stochastic = True
    differentiable = True

    def __init__(self, shape: tuple[int, ...], *, width: int, code: int) -> None:
        super().__init__()
        quarter = [halved(halved(side)) for side in shape[1:]]
        self.small = (4 * width, *quarter)
        numbers = 4 * width * quarter[0] * quarter[1]
        self.code = code
        self.encoder = nn.Sequential(
            Encoder(shape[0], width=width), nn.Flatten(), nn.Linear(numbers, 2 * code)
        )
        self.decoder = nn.Sequential(
            nn.Linear(code, numbers),
            nn.SiLU(),
            nn.Unflatten(1, self.small),
            Decoder(shape, width=width),
        )

    def codes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation (N, ``code``) of the codes of x (N, C, H, W)."""
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        bounded = _LARGEST * torch.tanh(log_variance / _LARGEST)
        return mean, (0.5 * bounded).exp()

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Return one image (N, C, H, W) in [0, 1] per image, of a fresh code."""
        return self.purify_draws(x, rng=rng)

    def purify_draws(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Encode each of x (N, C, H, W) once, and decode a code per stream (N * draws)."""
        mean, deviation = self.codes(x)
        draws = len(rng) // len(x)
        if draws > 1:
            mean = mean.repeat_interleave(draws, dim=0)
            deviation = deviation.repeat_interleave(draws, dim=0)
        drawn: Tensor = self.decoder(mean + deviation * rng.normal_like(mean))
        return drawn.sigmoid()


@dataclass(frozen=True)
class DefenseVae(OnSpoiledImages):
    """Encode, draw a code, decode (Defense-VAE, Li and Ji 2019, arXiv 1812.06570)."""

    training: VaeRecipe = field(default_factory=VaeRecipe)

    revision: ClassVar[int] = 1
    kind: ClassVar[str] = "learned"
    source: ClassVar[str] = "Li and Ji 2019, Defense-VAE, arXiv 1812.06570"
    stochastic: ClassVar[bool] = True

    @staticmethod
    def recipe(dataset: str) -> dict[str, Any]:
        """Return the shipped parameters for a data set."""
        return recipe("vae", dataset)

    def passes(self) -> dict[str, int]:
        """Count the passes of one purification, per image."""
        return {"encoder forward": 1, "decoder forward": 1}

    def start(self, task: Task) -> VaeTraining:
        """Begin training."""
        return VaeTraining(self.training, task)

    def load(self, weights: Mapping[str, Tensor], *, shape: tuple[int, ...]) -> Vae:
        """Build the purifier; raises CheckpointError where the weights do not fit."""
        net = Vae(shape, width=self.training.width, code=self.training.code)
        return read_weights(net, weights)


class VaeTraining(SpoiledTraining):
    """One training run: the bound on the likelihood of clean images, given spoiled ones."""

    net: Vae

    def __init__(self, recipe: VaeRecipe, task: Task) -> None:
        self._vae = recipe
        with seeded(recipe.seed):
            net = Vae(tuple(task.train.x.shape[1:]), width=recipe.width, code=recipe.code)
        super().__init__(recipe, task, net)

    def loss(self, rows: Tensor, chance: torch.Generator) -> Tensor:
        """Return the negative bound per pixel () on these rows of the training images (N,)."""
        x, clean = self.spoiled(rows, chance)
        mean, deviation = (one.float() for one in self.net.codes(x))
        drawn = mean + deviation * torch.randn(mean.shape, generator=chance).to(mean)
        pixels = self.net.decoder(drawn).float()
        fit = F.binary_cross_entropy_with_logits(pixels, clean, reduction="sum")
        prior = 0.5 * (mean.square() + deviation.square() - 1 - 2 * deviation.log()).sum()
        return (fit + self._vae.kl * prior) / clean.numel()

    def cleaned(self, net: nn.Module, x: Tensor) -> Tensor:
        """Clean images (N, C, H, W) by the mean of their codes."""
        assert isinstance(net, Vae)
        found: Tensor = net.decoder(net.codes(x)[0])
        return found.sigmoid()

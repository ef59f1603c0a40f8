"""Langevin steps on the energy of a course, as its notebook takes them.

University of Amsterdam, deep learning tutorial 8 (Lippe 2022). Nothing was claimed of its
robustness: it is the energy that students know. The layout is written down from the tensors'
names and shapes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bench.api import PublishedFile, Rng, load_weights
from bench_defenses._averaged import Positive
from bench_defenses.energies.langevin import energy_gradient
from bench_defenses.museum._shape import check_shape

_STEEPEST = 0.03  # of a pixel's gradient, in [-1, 1]
_PUBLISHED = PublishedFile(
    name="lippe_mnist_ebm.ckpt",
    sha256="209f0384d8442cde5a6465438786dac3e99156b6090f092c8cb62d2282a825e4",
    repository="phlippe/saved_models",
    commit="e38faed1",
    path="tutorial8/MNIST.ckpt",
    licence="MIT",
)


class CourseNet(nn.Module):
    """Images (N, 1, 28, 28) in [-1, 1] to how likely they are (N,): higher is likelier."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn_layers = nn.Sequential(
            nn.Conv2d(1, 16, 5, stride=2, padding=4),
            nn.SiLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(64, 64, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(256, 64),
            nn.SiLU(),
            nn.Linear(64, 1),
        )

    def forward(self, z: Tensor) -> Tensor:
        """Return the network's output."""
        found: Tensor = self.cnn_layers(z)
        return found.squeeze(-1)


class CourseEnergy(nn.Module):
    """The energy (N,) of images in [0, 1]: low where the network's output is high."""

    def __init__(self, cnn: CourseNet) -> None:
        super().__init__()
        self.cnn = cnn

    def forward(self, x: Tensor) -> Tensor:
        """Return the energies of x (N, 1, 28, 28)."""
        found: Tensor = -self.cnn(2 * x - 1)
        return found


class CoursePurifier(nn.Module):
    """K steps in [-1, 1]: noise, clamp, then down the energy by clamped gradients, clamp.

    Backwards, each step is replayed from its state, so that no activation outlives it.
    """

    stochastic = True
    differentiable = True

    def __init__(
        self, energy: CourseEnergy, *, steps: int, step_size: float, noise: float
    ) -> None:
        super().__init__()
        self.energy = energy
        self.steps, self.step_size, self.noise = steps, step_size, noise

    def step(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Take one step from x (N, 1, 28, 28) in [0, 1]."""
        noise = rng.normal_like(x)
        moved: Tensor = checkpoint(
            self._step, x, noise, use_reentrant=False, preserve_rng_state=False
        )
        return moved

    def _step(self, x: Tensor, noise: Tensor) -> Tensor:
        z = (2 * x - 1 + self.noise * noise).clamp(-1, 1)
        # The energy takes images in [0, 1], where its gradient is twice as large.
        slope = energy_gradient(self.energy, (z + 1) / 2, create_graph=z.requires_grad)
        z = z - self.step_size * (slope / 2).clamp(-_STEEPEST, _STEEPEST)
        return (z.clamp(-1, 1) + 1) / 2

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Take all steps from x (N, 1, 28, 28), with fresh noise at each."""
        for k in range(self.steps):
            x = self.step(x, rng=rng.fork("course", k))
        return x


@dataclass(frozen=True)
class Lippe:
    """Langevin steps on the published energy of a course (UvA tutorial 8, Lippe 2022).

    ``step_size`` and ``noise`` in pixels of [-1, 1].
    """

    steps: Positive = 60
    step_size: Annotated[float, Field(gt=0)] = 10.0
    noise: Annotated[float, Field(gt=0)] = 0.005

    revision: ClassVar[int] = 1
    kind: ClassVar[str] = "museum"
    source: ClassVar[str] = "Lippe 2022, UvA deep learning tutorial 8"
    stochastic: ClassVar[bool] = True
    differentiable: ClassVar[bool] = True

    def purifier(self, *, shape: tuple[int, ...]) -> CoursePurifier:
        """Make the purifier for images of a shape (C, H, W).

        Raises PluginError for other shapes, DataError without the published weights,
        CheckpointError where they are others.
        """
        check_shape(shape, name="lippe_ebm")
        energy = CourseEnergy(CourseNet())
        load_weights(energy, _PUBLISHED.found())
        return CoursePurifier(
            energy, steps=self.steps, step_size=self.step_size, noise=self.noise
        )

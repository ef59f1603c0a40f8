"""Images on which plugins are tried: a few of a data set, and the extremes of all images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.core.protocols import Images
from bench.core.rng import Rng
from bench.data.datasets import dataset_info
from bench.data.load import load_test, load_train
from bench.data.names import trained_on

_TRAINED_ON, _REAL = 256, 2


@dataclass(frozen=True)
class Material:
    """Images ``x`` (7, C, H, W) of a data set with so many classes; what trainings begin with.

    ``train`` is None for a data set without training images.
    """

    x: Tensor
    classes: int
    train: Images | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image, (C, H, W)."""
        return tuple(self.x.shape[1:])

    def double(self) -> Material:
        """Return the images to try as float64."""
        return replace(self, x=self.x.double())


def material(dataset: str, data: Path) -> Material:
    """Load what plugins are tried on; raises BenchError."""
    info = dataset_info(dataset)
    pixels = load_test(dataset, root=data, first=_REAL)
    train = None
    if dataset_info(trained_on(dataset)).held_out:
        train = load_train(trained_on(dataset), root=data)[0][:_TRAINED_ON]
    return Material(extremes(pixels.images(0, _REAL).x), info.classes, train)


def extremes(x: Tensor) -> Tensor:
    """Put black, white, gray and random images before two of x (N, C, H, W): (7, C, H, W)."""
    shape = tuple(x.shape[1:])
    random = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    flat = [torch.full((1, *shape), level) for level in (0.0, 1.0)]
    return torch.cat([*flat, random, (random[:1] > 0.5).float(), x[:_REAL].float()])


def inner(x: Tensor) -> Tensor:
    """Draw images in the form of x (N, C, H, W), away from black and white."""
    generator = torch.Generator().manual_seed(1)
    drawn = torch.rand(x.shape, generator=generator, dtype=torch.float64)
    return (0.3 + 0.4 * drawn).to(x.dtype)


def streams(n: int, seed: int = 0) -> Rng:
    """Open streams for n images."""
    return Rng.seeded(seed, [10 * i for i in range(n)])


class Linear(nn.Module):
    """A classifier for images of any shape: (N, C, H, W) to (N, classes), of any float type."""

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        pixels = int(torch.Size(shape).numel())
        self.weight = nn.Parameter(torch.randn(pixels, classes, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return x.flatten(1) @ self.weight.to(x.dtype)

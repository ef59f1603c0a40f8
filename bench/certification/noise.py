"""Normal numbers without the table's short tails, and a test of what a purifier does with them.

``Rng`` reads normals off a table that ends at 4.5 deviations, which attacks and judge need for
speed. The theorem behind a certificate asks for the normal distribution itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bench.core.defense import Defense
from bench.core.isolation import isolated
from bench.core.rng import Rng
from bench.errors import PluginError

_SAME = 0.01  # by which rounding may move a pixel, at most
_ODD = 0.01  # the share of pixels beyond it that a step, such as a rounding, may leave


@dataclass(frozen=True, eq=False, repr=False)
class ExactNormals(Rng):
    """The streams of an Rng with normals exact to 2**-53; ``first`` is added to the first.

    ``first`` holds one tensor (M, C, H, W), or nothing; whoever draws first takes it out.
    """

    first: list[Tensor] = field(default_factory=list)

    @classmethod
    def of(cls, rng: Rng, first: Tensor | None = None) -> ExactNormals:
        """Draw from the streams of ``rng``."""
        added = [] if first is None else [first]
        return cls(rng._key, rng._images, rng._draws, added)

    def __getitem__(self, rows: Tensor | slice) -> ExactNormals:
        """Keep the streams of some rows."""
        return self._like(super().__getitem__(rows))

    def fork(self, *purpose: str | int) -> ExactNormals:
        """Name another use of chance."""
        return self._like(super().fork(*purpose))

    def repeat(self, draws: int) -> ExactNormals:
        """Open ``draws`` streams per row, side by side."""
        return self._like(super().repeat(draws))

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Draw standard normal numbers, float32 (M, *shape)."""
        return self._exact(shape).float()

    def normal_like(self, x: Tensor) -> Tensor:
        """Draw standard normal numbers of the shape and type of x (M, ...)."""
        return self._exact(x.shape[1:]).to(x.dtype)

    def _exact(self, shape: Sequence[int]) -> Tensor:
        words = self.bits((*shape, 2))
        high, low = words[..., 0], words[..., 1]
        # A uniform number in (0, 1/2) with 52 bits, and a sign: no tail rounds to infinity.
        half = ((high & 0x7FFFFFFF) * 2**21 + (low >> 11)).double().add_(0.5).mul_(2.0**-53)
        found: Tensor = torch.special.ndtri(half) * (1 - 2 * (high >> 31))
        if self.first and self.first[0].shape == found.shape:
            found = found + self.first.pop()
        return found

    def _like(self, rng: Rng) -> ExactNormals:
        return ExactNormals(rng._key, rng._images, rng._draws, self.first)


def check_noise(defense: Defense, x: Tensor, *, sigma: float, rng: Rng, name: str) -> None:
    """Try whether a purifier sees images x (N, C, H, W) only through x + ``sigma`` normal.

    The noise is moved by as much as an image is: then nothing may change. Raises PluginError.
    """
    other = rng.fork("other images").uniform_like(x)
    moved = ExactNormals.of(rng, (other - x).double() / sigma)
    found = []
    for images, chance in ((other, ExactNormals.of(rng)), (x, moved)):
        with isolated(rng.fork("generators").integer()), torch.no_grad():
            found.append(defense.purify(images, rng=chance))
    differs = (found[0] - found[1]).abs() > _SAME
    if moved.first or bool(differs.float().mean() > _ODD):
        raise PluginError(
            f"{name} says that it first adds noise of deviation {sigma:g} to its images, but "
            "an image and noise that add up to the same are purified to different images. Draw "
            "the noise from rng.normal_like(x), add it before anything else, and return its "
            "deviation from certified_noise, or None."
        )

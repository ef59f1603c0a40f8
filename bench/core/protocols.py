"""The contracts between the harness and its plugins.

N images, C channels, H, W pixels in [0, 1], K classes. Tensors are positional, everything
else is keyword-only. A plugin is a frozen dataclass of parameters, named in an entry point.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeGuard, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from bench.core.rng import Rng
from bench.core.threat import Access, Norm, ThreatModel

Contract = TypeVar("Contract")


def fits(plugin: object, contract: type[Contract]) -> TypeGuard[Contract]:
    """Whether a plugin has every attribute that a contract names, found as a caller finds it.

    ``isinstance`` is not enough from Python 3.12 on: it ignores ``__getattr__``, the only way
    to the submodules of an nn.Module, such as an energy.
    """
    names = {
        name
        for base in contract.__mro__
        if getattr(base, "_is_protocol", False) and base is not Protocol
        for name in (*vars(base), *vars(base).get("__annotations__", {}))
        if not name.startswith("_")
    }
    return all(getattr(plugin, name, None) is not None for name in names)


class DefensePlugin(Protocol):
    """What a defense plugin declares before it is loaded."""

    revision: ClassVar[int]

    @property
    def stochastic(self) -> bool: ...

    @property
    def differentiable(self) -> bool: ...


@runtime_checkable
class Purifier(Protocol):
    """Cleans images before they are classified.

    ``stochastic``: two calls with other streams may differ. ``differentiable``: autograd
    through ``purify`` gives its true gradient.
    """

    @property
    def stochastic(self) -> bool: ...

    @property
    def differentiable(self) -> bool: ...

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Clean x (N, C, H, W), with a stream per row, to images of the same shape."""
        ...


@runtime_checkable
class SharingPurifier(Purifier, Protocol):
    """A purifier that does once per image what all draws of the image have in common."""

    def purify_draws(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Clean each of x (N, C, H, W) once per stream of rng (N * draws), side by side.

        The result is that of ``purify`` on the repeated images, up to rounding.
        """
        ...


@runtime_checkable
class SteppedPurifier(Purifier, Protocol):
    """A purifier made of small equal steps, of which an attack may take a single one."""

    def step(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Take one purification step from x (N, C, H, W)."""
        ...


@runtime_checkable
class EnergyPurifier(Purifier, Protocol):
    """A purifier that descends an energy: ``energy`` maps (N, C, H, W) to (N,)."""

    @property
    def energy(self) -> nn.Module: ...


@runtime_checkable
class CoarsePurifier(Purifier, Protocol):
    """A purifier with a cheaper process close to its own, for attacks to differentiate."""

    def coarser(self, factor: int) -> Purifier:
        """Build the purifier of about ``factor`` times fewer steps on the same networks."""
        ...


@runtime_checkable
class NoisyPurifier(Purifier, Protocol):
    """A purifier that can add only its noise, as a control for everything else that it does."""

    def noise_alone(self) -> Purifier:
        """Build the purifier of the same noise with the identity in place of the rest."""
        ...


class View(Protocol):
    """What an attacker may see of a defense: made by ``bench.core.access``, one per access."""

    @property
    def access(self) -> Access: ...

    @property
    def stochastic(self) -> bool: ...

    def __call__(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Return the logits of x (N, C, H, W), with the gradient that this access grants.

        ``rng`` has one stream per image, or several, side by side (``Rng.repeat``); there is
        one row of logits (N * draws, K) for each.
        """
        ...

    def classify(self, x: Tensor) -> Tensor:
        """Return the logits (N, K) of the bare classifier."""
        ...

    def purification_step(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Take one step of the purifier; raises PluginError where the access hides it."""
        ...

    def surrogate(self, factor: int) -> View:
        """Open the same access on a coarser purifier; raises PluginError without one."""
        ...


@dataclass(frozen=True)
class Calls:
    """The most that an attack asks of its view, per image.

    ``forward`` rows seen by the view without a gradient, ``backward`` rows differentiated,
    ``classify`` rows differentiated at the bare classifier, ``steps`` purification steps.
    """

    forward: int = 0
    backward: int = 0
    classify: int = 0
    steps: int = 0


class Attack(Protocol):
    """Proposes adversarial images; the harness judges them.

    ``independent``, a class variable that may be left out, says that no image depends on
    another one: a GPU then attacks several shards in one batch.
    """

    revision: ClassVar[int]
    norms: ClassVar[tuple[Norm, ...]]
    accesses: ClassVar[tuple[Access, ...]]  # the first one is the default
    unbounded: ClassVar[bool]  # whether eps = inf makes sense

    def __call__(
        self, view: View, x: Tensor, y: Tensor, *, threat: ThreatModel, rng: Rng
    ) -> Tensor:
        """Propose images near x (N, C, H, W) that the view mistakes for other than y (N,)."""
        ...

    def calls(self, *, stochastic: bool, classes: int) -> Calls:
        """Bound the cost of one image, with a stochastic view or a deterministic one."""
        ...


@runtime_checkable
class WarmAttack(Attack, Protocol):
    """An attack that can start from the images of cheaper ones, and does where ``warm``."""

    @property
    def warm(self) -> bool: ...

    def __call__(
        self,
        view: View,
        x: Tensor,
        y: Tensor,
        *,
        threat: ThreatModel,
        rng: Rng,
        start: Tensor | None = None,
    ) -> Tensor:
        """Propose images near x as every attack, beginning at ``start`` (N, C, H, W)."""
        ...


@dataclass(frozen=True)
class Images:
    """A block of a data set: ``indices`` (N,), ``x`` (N, C, H, W) in [0, 1], ``y`` (N,)."""

    indices: Tensor
    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, rows: slice | Tensor) -> Images:
        return Images(self.indices[rows], self.x[rows], self.y[rows])

    def to(self, device: torch.device) -> Images:
        """Move the block to a device."""
        return Images(self.indices.to(device), self.x.to(device), self.y.to(device))


@dataclass(frozen=True)
class Pixels:
    """A whole split as bytes: ``x`` (N, C, H, W) in 0..top, ``y`` (N,), and its digest."""

    x: Tensor
    y: Tensor
    top: int
    digest: str

    def __len__(self) -> int:
        return len(self.y)

    def images(self, start: int, stop: int) -> Images:
        """Cut a block out and scale it to [0, 1]."""
        return Images(
            torch.arange(start, stop),
            self.x[start:stop].float() / self.top,
            self.y[start:stop],
        )

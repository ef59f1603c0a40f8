"""Access as a view of the defense, so that every attack works with every access."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from bench.core.border import blamed, logits_of
from bench.core.defense import Defense
from bench.core.networks import freeze
from bench.core.protocols import CoarsePurifier, View, fits
from bench.core.rng import Rng
from bench.core.threat import Access
from bench.errors import PluginError


class Gradients:
    """Counts on the device in how many pixels the gradients that an attack takes are finite."""

    pixels: int = 0
    finite: Tensor | int = 0

    def seen(self, x: Tensor) -> Tensor:
        """Return images (N, C, H, W) as they are, with their gradient counted."""
        if x.requires_grad and torch.is_grad_enabled():
            x = x.view_as(x)  # so that the hook is that of this call
            x.register_hook(self._count)  # type: ignore[no-untyped-call]  # torch's has no types
        return x

    def _count(self, gradient: Tensor) -> None:
        self.pixels += gradient.numel()
        self.finite = self.finite + gradient.detach().isfinite().sum()

    def flag(self) -> str | None:
        """Say how many pixels had no gradient; None for 1 % or less. Waits for the device."""
        lost = 1 - float(self.finite) / self.pixels if self.pixels else 0.0
        said = f"the gradient was NaN or infinite at {lost:.0%} of the pixels: unusable there"
        return said if lost > 0.01 else None


class _Hiding:
    access: ClassVar[Access]

    def purification_step(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Refuse: this access hides the purifier."""
        raise self._hidden("a purification step")

    def surrogate(self, factor: int) -> View:
        """Refuse: this access hides the purifier."""
        raise self._hidden("a cheaper process of the purifier")

    def _hidden(self, what: str) -> PluginError:
        return PluginError(
            f"the attack asked for {what}, which {self.access} access hides. Change its "
            f"settings, choose another --access, or remove '{self.access}' from its accesses."
        )


@dataclass(frozen=True)
class TransferView(_Hiding):
    """The bare classifier: the purifier is unknown to the attacker (gray box)."""

    classifier: nn.Module
    gradients: Gradients = field(default_factory=Gradients)
    access: ClassVar[Access] = Access.TRANSFER
    stochastic: ClassVar[bool] = False

    def __call__(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Return the logits of x (N, C, H, W), which are the same for all draws."""
        logits, draws = self.classify(x), len(rng) // max(1, len(x))
        return logits.repeat_interleave(draws, dim=0) if draws > 1 else logits

    def classify(self, x: Tensor) -> Tensor:
        """Return the classifier's logits (N, K); it gets a copy of x (N, C, H, W)."""
        return logits_of(self.classifier, self.gradients.seen(x).clone())


@dataclass(frozen=True)
class _WholeView:
    defense: Defense
    gradients: Gradients = field(default_factory=Gradients)

    @property
    def stochastic(self) -> bool:
        return self.defense.stochastic

    def classify(self, x: Tensor) -> Tensor:
        """Return the bare classifier's logits (N, K); it gets a copy of x (N, C, H, W)."""
        return self.defense.classify(self.gradients.seen(x).clone())

    def purification_step(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Take one step of the purifier on a copy of x (N, C, H, W), without a gradient."""
        with torch.no_grad():
            return self.defense.purification_step(x.clone(), rng=rng)

    def surrogate(self, factor: int) -> Self:
        """Open the same access on a coarser purifier; raises PluginError without one."""
        purifier = self.defense.purifier
        if not fits(purifier, CoarsePurifier):
            raise PluginError(
                f"this defense has no cheaper process: {type(purifier).__name__} has no "
                "'coarser'. Do not set attack.surrogate."
            )
        with blamed(f"the purifier {type(purifier).__name__}"):
            coarser = purifier.coarser(factor)
        freeze(coarser)  # or its networks were copied, and their passes counted nowhere
        coarse = Defense(coarser, self.defense.classifier, seed=self.defense.seed)
        weights = next(chain(self.defense.parameters(), self.defense.buffers()), None)
        if weights is not None:
            coarse.to(weights.device)  # what the coarser one made anew, such as a schedule
        return replace(self, defense=coarse)


class _StraightThrough(torch.autograd.Function):
    """x (N, ...), purified (N * draws, ...) -> purified, whose gradient is that of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, purified: Tensor) -> Tensor:
        """Return a copy of the purified images."""
        ctx.images = len(x)
        return purified.clone()  # a classifier may write into its input

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None]:
        """Pass the gradient through, summed over all draws of an image."""
        (gradient,) = outer
        if len(gradient) > ctx.images:
            gradient = gradient.reshape(ctx.images, -1, *gradient.shape[1:]).sum(1)
        return gradient, None


@dataclass(frozen=True)
class BpdaView(_WholeView):
    """BPDA: the purifier forwards, the identity backwards (Athalye et al. 2018).

    "Obfuscated Gradients Give a False Sense of Security", arXiv 1802.00420.
    """

    access: ClassVar[Access] = Access.BPDA

    def __call__(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Return the logits (N * draws, K) of x (N, C, H, W)."""
        with torch.no_grad():
            purified = self.defense.purify(x, rng=rng)
        shown: Tensor = _StraightThrough.apply(self.gradients.seen(x), purified)
        return self.defense.classify(shown)


@dataclass(frozen=True)
class FullView(_WholeView):
    """The exact gradient through every purification step."""

    access: ClassVar[Access] = Access.FULL

    def __call__(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Return the logits (N * draws, K) of x (N, C, H, W)."""
        return self.defense.classify(self.defense.purify(self.gradients.seen(x), rng=rng))


@dataclass(frozen=True)
class QueryView(_WholeView):
    """Logits of the whole defense and nothing to differentiate."""

    access: ClassVar[Access] = Access.QUERY

    def __call__(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Return the logits (N * draws, K) of x (N, C, H, W)."""
        with torch.no_grad():
            return self.defense.classify(self.defense.purify(x, rng=rng))


class LabelView(_Hiding):
    """The class that each draw elects, and nothing else: an attack cannot read more."""

    access: ClassVar[Access] = Access.LABEL

    def __init__(self, defense: Defense) -> None:
        def elected(x: Tensor, rng: Rng) -> Tensor:
            logits = QueryView(defense)(x, rng=rng)
            return torch.zeros_like(logits).scatter_(1, logits.argmax(1, keepdim=True), 1)

        # In a closure, for no attribute may lead an attack to what it must not see.
        self.stochastic, self._elected = defense.stochastic, elected

    def __call__(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Return rows (N * draws, K) of zeros with a 1 at the class, for x (N, C, H, W)."""
        return self._elected(x, rng)

    def classify(self, x: Tensor) -> Tensor:
        """Refuse: this access hides the bare classifier."""
        raise self._hidden("the bare classifier")


def view_of(defense: Defense, access: Access) -> View:
    """Open a defense to an attacker at one access."""
    if access is Access.TRANSFER:
        return TransferView(defense.classifier)
    if access is Access.LABEL:
        return LabelView(defense)
    if access is Access.BPDA:
        return BpdaView(defense)
    return FullView(defense) if access is Access.FULL else QueryView(defense)


def unsupported(*, differentiable: bool, access: Access) -> str | None:
    """Return why a defense cannot be opened at an access; None where it can."""
    if access is Access.FULL and not differentiable:
        return "its purifier has no true gradient: use --access bpda"
    return None

"""A purifier or a classifier whose own code finds networks in globals, closures or classes.

They are held in copies, as those of a function are: frozen, counted and part of the key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from bench.core.networks import modules_in
from bench.core.rng import Rng
from bench.plugins.as_classifier import HeldClassifier
from bench.plugins.brought import beside, digest_beside, is_shipped
from bench.plugins.reach import Slot
from bench.plugins.thing import Held, Thing, copied

_CALLED = ("purify_draws", "step")
_GIVES_ANOTHER = ("coarser", "noise_alone")


def with_its_networks(
    plugin: object, made: Any, checkpoint: Mapping[str, Tensor] | None = None
) -> tuple[Any, str | None]:
    """Return what a plugin made with all networks that it uses, and the digest of the rest.

    It is held, where its code finds networks elsewhere; else it is copied, so that no other
    code's networks change. One that ships is taken as it is.
    """
    if is_shipped(plugin):
        return made, None
    slots = beside(plugin, made)
    if not any(modules_in(slot.get()) for slot in slots):
        found = made if hasattr(plugin, "thing") else copied(made)  # a thing is a copy already
        return found, digest_beside(slots, made=found, checkpoint=checkpoint)
    thing = Thing(made, type(made).__name__)
    if isinstance(made, nn.Module) and not hasattr(made, "purify"):
        found = HeldClassifier.of(thing, made, slots=slots, options={})
    else:
        found = _held(thing, made, slots)
    return found, digest_beside([], made=found, checkpoint=checkpoint)


class HeldContract(Held):
    """A purifier by way of another one, which says all of itself."""

    @property
    def stochastic(self) -> bool:
        """Whether two calls may differ."""
        return bool(self.held.stochastic)

    @property
    def differentiable(self) -> bool:
        """Whether autograd gives its gradient."""
        return bool(self.held.differentiable)

    def purify(self, x: Tensor, *, rng: Rng) -> Any:
        """Clean x (N, C, H, W)."""
        with self.at_work():
            return self.held.purify(x, rng=rng)

    def __getattr__(self, name: str) -> Any:
        """Find what else the purifier has, such as its number of steps."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__") or name == self.target:
                raise
        return getattr(self.held, name)


def _held(thing: Thing, made: Any, slots: list[Slot]) -> Any:
    """Hold a purifier, by a class that has the methods of bench's protocols that it has."""
    methods: dict[str, Any] = {name: _called(name) for name in _CALLED if hasattr(made, name)}
    methods |= {name: _another(name) for name in _GIVES_ANOTHER if hasattr(made, name)}
    if hasattr(made, "energy"):
        methods["energy"] = property(_energy)
    return HeldContract.of(thing, made, slots=slots, **methods)


def _called(name: str) -> Any:
    def call(self: HeldContract, x: Tensor, *, rng: Rng) -> Any:
        with self.at_work():
            return getattr(self.held, name)(x, rng=rng)

    return call


def _another(name: str) -> Any:
    def call(self: HeldContract, *given: Any) -> Any:
        with self.at_work():  # what it is made of is held here
            made = getattr(self.held, name)(*given)
            return _held(Thing(made, type(made).__name__), made, self.slots)

    return call


def _energy(self: HeldContract) -> Any:
    with self.at_work():
        return self.held.energy

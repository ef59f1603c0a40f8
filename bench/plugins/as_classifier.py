"""A classifier made of a network, a class, or a function that returns one."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from bench.errors import PluginError
from bench.plugins.reach import slots_of
from bench.plugins.signatures import OF_THE_DATA, signature_of
from bench.plugins.thing import (
    Held,
    Thing,
    arguments,
    article,
    maker_signature,
    plugin_class,
)

EXPECTED = "network(*, shape, classes), where both may be left out and parameters may follow"
_TRAINED = ("revision", "needs_classifier", "negatives", "start", "load")
_UNTRAINED = ("revision", "network")


def as_classifier(thing: Thing) -> type[Any]:
    """Make a classifier plugin of a thing; raises PluginError where it is none."""
    one = thing.object
    if isinstance(one, type) and dataclasses.is_dataclass(one):
        for contract in (_TRAINED, _UNTRAINED):
            if all(hasattr(one, name) for name in contract):
                return one
    if _only_purifies(one):
        raise PluginError(
            f"{thing.label} has purify and no forward: it is a purifier, not a classifier. "
            "Name it as the defense, or write forward(x), which returns logits (N, K)."
        )
    if thing.makes:
        taken = maker_signature(thing, OF_THE_DATA, EXPECTED)
        return plugin_class(thing, MadeClassifier, taken.fields, gives=taken.gives)
    if inspect.isroutine(one):  # from images to logits
        taken = signature_of(one, given=(), skip=1, what=thing.label, expected="logits(x)")
        return plugin_class(thing, MadeClassifier, taken.fields)
    if not isinstance(one, nn.Module):
        raise PluginError(
            f"{thing.label} is {article(one)}, not a classifier. Name an nn.Module, its class, "
            f"or a function {EXPECTED}, that returns one."
        )
    return plugin_class(thing, MadeClassifier, ())


def _only_purifies(one: object) -> bool:
    """Say whether a network, or its class, purifies images and cannot be called with them."""
    cls = one if isinstance(one, type) else type(one)
    without = issubclass(cls, nn.Module) and cls.forward is nn.Module.forward
    return without and callable(getattr(cls, "purify", None))


class MadeClassifier:
    """Base of the dataclasses: parameters from which a network is made."""

    revision: ClassVar[int] = 1
    thing: ClassVar[Thing]
    gives: ClassVar[frozenset[str]] = frozenset()

    def network(self, *, shape: tuple[int, ...], classes: int) -> nn.Module:
        """Make the network from images (C, H, W) to logits; raises PluginError."""
        thing, own = self.thing, arguments(self)
        given = {"shape": shape, "classes": classes}
        given = {name: value for name, value in given.items() if name in self.gives}
        made = thing.made({**own, **given} if thing.makes else {})
        if inspect.isroutine(made):
            # `of` builds a class of its own, which mypy cannot know.
            return HeldClassifier.of(thing, made, options={} if thing.makes else own)  # type: ignore[no-any-return]
        if not isinstance(made, nn.Module):
            raise PluginError(
                f"{thing.label} made {article(made)}, not a network. Return an nn.Module from "
                "images (N, C, H, W) in [0, 1] to logits (N, K)."
            )
        if not slots_of(type(made), thing.own):
            return made
        # As above.
        return HeldClassifier.of(thing, made, options={})  # type: ignore[no-any-return]


class HeldClassifier(Held):
    """A network by way of a function, or of an object whose code uses globals."""

    options: ClassVar[Mapping[str, Any]] = {}

    def forward(self, x: Tensor) -> Any:
        """Return the logits of x (N, C, H, W)."""
        with self.at_work():
            return self.held(x, **self.options)

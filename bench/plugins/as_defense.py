"""A purifier made of a function, a network, a class or a pipeline."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from bench.core.protocols import Purifier, fits
from bench.core.rng import Rng
from bench.errors import PluginError
from bench.plugins.signatures import Signature, names_of, positionals, signature_of
from bench.plugins.thing import (
    CHANCE,
    Held,
    Thing,
    arguments,
    article,
    by_batch,
    generator_of,
    maker_signature,
    plugin_class,
    said,
)

EXPECTED = "purify(x, *, rng), where rng may be left out and parameters may follow"
_CONTRACT = ("revision", "stochastic", "differentiable")
_IMAGES = ("image", "images", "sample", "x")  # what pipelines call them


@dataclasses.dataclass(frozen=True)
class Call:
    """How a purifier is called: its method, what it takes, the keyword of the images.

    Without a method it is called itself, without a keyword the images come first. ``fixed`` is
    passed always.
    """

    method: str
    keyword: str | None
    signature: Signature
    fixed: Mapping[str, Any]


def as_defense(thing: Thing) -> type[Any]:
    """Make a defense plugin of a thing; raises PluginError where it is none."""
    one = thing.object
    if _is_contract(one):
        # What a file defines has any type.
        return one  # type: ignore[no-any-return]
    if not thing.makes:
        ready = fits(one, Purifier)
        call = None if ready else call_of(one, thing.label)
        fields = () if call is None else call.signature.fields
        return plugin_class(thing, MadeDefense, fields, call=call)
    ways = ("purify", "forward", "__call__")
    if isinstance(one, type) and not any(way in dir(one) for way in ways):
        raise PluginError(
            f"{thing.label} is a class that purifies nothing: it is no nn.Module and has no "
            f"method {EXPECTED}."
        )
    taken = maker_signature(thing, ("shape",), EXPECTED)
    return plugin_class(thing, MadeDefense, taken.fields, gives=taken.gives)


def _is_contract(one: Any) -> bool:
    return (
        isinstance(one, type)
        and dataclasses.is_dataclass(one)
        and all(hasattr(one, name) for name in _CONTRACT)
        and (hasattr(one, "purify") or hasattr(one, "load"))
    )


class MadeDefense:
    """Base of the dataclasses: parameters from which a purifier is made.

    ``stochastic`` and ``differentiable`` are what is known before that; the purifier that is
    made has what was measured.
    """

    revision: ClassVar[int] = 1
    thing: ClassVar[Thing]
    call: ClassVar[Call | None] = None
    gives: ClassVar[frozenset[str]] = frozenset()

    @property
    def stochastic(self) -> bool:
        """What was declared; else noise has to be reckoned with."""
        return self.thing.declared("stochastic") is not False

    @property
    def differentiable(self) -> bool:
        """What was declared; else a gradient has to be reckoned with."""
        return self.thing.declared("differentiable") is not False

    def purifier(self, *, shape: tuple[int, ...]) -> Any:
        """Make the purifier for images (C, H, W); raises PluginError."""
        thing, own = self.thing, arguments(self)
        given = {"shape": shape} if "shape" in self.gives else {}
        made = thing.made({**own, **given} if thing.makes else {})
        if fits(made, Purifier):
            return made
        call = self.call or call_of(made, thing.label)
        options = {} if thing.makes else own
        return HeldPurifier.of(thing, made, call=call, options={**options, **call.fixed})


class HeldPurifier(Held):
    """A purifier by way of another object, which gets the chance that it asks for."""

    call: ClassVar[Call]
    options: ClassVar[Mapping[str, Any]] = {}

    def __init__(self) -> None:
        super().__init__()
        # What it says of itself, and what was measured (bench.plugins.measured).
        self.known: dict[str, bool] = {}

    def took(self, made: Any) -> None:
        """Read what the object says of itself."""
        for name in ("stochastic", "differentiable"):
            if (found := said(made, name)) is not None:
                self.known[name] = found
        if self.call.signature.gives:
            self.known.setdefault("stochastic", True)

    @property
    def stochastic(self) -> bool:
        """Whether two calls may differ; they may as long as it is not known."""
        return self.known.get("stochastic", True)

    @property
    def differentiable(self) -> bool:
        """Whether autograd gives its gradient; it is tried as long as it is not known."""
        return self.known.get("differentiable", True)

    @property
    def by_block(self) -> bool:
        """Whether its noise depends on the batch: it draws by itself or from one generator."""
        return self.stochastic and "rng" not in self.call.signature.gives

    def purify(self, x: Tensor, *, rng: Rng) -> Any:
        """Clean x (N, C, H, W)."""
        call, options = self.call, dict(self.options)
        if "rng" in call.signature.gives:
            options["rng"] = rng
        if "generator" in call.signature.gives:
            options["generator"] = generator_of(rng)
        # What was found to be deterministic draws nothing that matters.
        alone = not call.signature.gives and self.stochastic
        with self.at_work(), by_batch(rng) if alone else contextlib.nullcontext():
            held = getattr(self.held, call.method) if call.method else self.held
            if call.keyword:
                return _images(held(**{call.keyword: x}, **options))
            return _images(held(x, **options))


def draws_by_block(purifier: object) -> bool:
    """Whether a purifier's noise is known to depend on the batch."""
    return isinstance(purifier, HeldPurifier) and purifier.by_block


def call_of(one: Any, label: str) -> Call:
    """Find how an object purifies; raises PluginError where it does not."""
    method = "purify" if callable(getattr(one, "purify", None)) else ""
    called: Any = getattr(one, method) if method else one
    if not callable(called):
        raise PluginError(
            f"{label} is {article(one)}, not a purifier. Name a function {EXPECTED}, an "
            "nn.Module, or a class with such a method."
        )
    if isinstance(called, nn.Module):
        called = called.forward
    names, required = names_of(called, label), positionals(called)
    keyword = None
    if not required:  # as a pipeline, whose prompt comes first and may be left out
        keyword = next((name for name in _IMAGES if name in names), None)
        if keyword is None:
            raise PluginError(f"{label} takes no images. bench calls it as {EXPECTED}.")
    fixed = {"output_type": "pt"} if keyword and "output_type" in names else {}
    taken = signature_of(
        called, given=CHANCE, skip=0 if keyword else 1, what=label, expected=EXPECTED
    )
    own = tuple(f for f in taken.fields if f[0] != keyword and f[0] not in fixed)
    return Call(method, keyword, Signature(taken.gives, own), fixed)


def _images(found: Any) -> Any:
    """Unpack what pipelines and networks of diffusers return; the border checks the rest."""
    for name in ("images", "sample"):
        inner = getattr(found, name, None)
        if isinstance(inner, Tensor):
            return inner
    return found

"""An attack made of a function or a class."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable
from typing import Any, ClassVar

from torch import Tensor

from bench.core.protocols import Calls, View
from bench.core.rng import Rng
from bench.core.threat import Access, Norm, ThreatModel, parse_access, parse_norm
from bench.errors import PluginError
from bench.plugins.reach import slots_of
from bench.plugins.signatures import positionals, signature_of
from bench.plugins.thing import (
    Thing,
    arguments,
    article,
    generator_of,
    maker_signature,
    plugin_class,
)

EXPECTED = (
    "attack(view, x, y, *, threat, rng), where rng may be left out and parameters may follow"
)
_CONTRACT = ("revision", "norms", "accesses", "unbounded", "calls")
_GIVEN = ("threat", "rng", "generator", "eps", "norm")
_SEEN = 3  # view, x, y


def as_attack(thing: Thing) -> type[Any]:
    """Make an attack plugin of a thing; raises PluginError where it is none."""
    one = thing.object
    if dataclasses.is_dataclass(one) and all(hasattr(one, name) for name in _CONTRACT):
        # By duck typing: no protocol says "is a dataclass".
        return one  # type: ignore[return-value]
    if isinstance(one, type):
        taken = maker_signature(thing, (), EXPECTED)
        call = inspect.getattr_static(one, "__call__", None)
        gives = _gives(call, thing, skip=_SEEN + 1) if inspect.isfunction(call) else None
    elif inspect.isroutine(one):
        taken = signature_of(one, given=_GIVEN, skip=_SEEN, what=thing.label, expected=EXPECTED)
        gives = _gives(one, thing, skip=_SEEN)
    else:
        taken, gives = None, None
    if taken is None or gives is None:
        raise PluginError(
            f"{thing.label} is {article(one) if not isinstance(one, type) else 'a class'} that "
            f"attacks nothing. Name a function {EXPECTED}, or a class that is called like it."
        )
    return plugin_class(
        thing, MadeAttack, taken.fields, gives=gives,
        norms=_read(one, "norms", parse_norm, Norm),
        accesses=_read(one, "accesses", parse_access, (Access.FULL, *Access)),
        unbounded=bool(getattr(one, "unbounded", False)),
    )  # fmt: skip


def _gives(call: Any, thing: Thing, *, skip: int) -> frozenset[str]:
    """Return what an attack asks for beside view, x and y; raises PluginError."""
    if len(positionals(call)) < skip:
        raise PluginError(f"{thing.label} takes other arguments. bench calls it as {EXPECTED}.")
    taken = signature_of(call, given=_GIVEN, skip=skip, what=thing.label, expected=EXPECTED)
    return taken.gives


def _read(one: Any, name: str, parse: Any, default: Iterable[Any]) -> tuple[Any, ...]:
    """Read norms or accesses, which may be written as text."""
    found = getattr(one, name, None)
    if isinstance(found, str):
        found = (found,)
    return tuple(dict.fromkeys(parse(str(each)) for each in found or default))


class MadeAttack:
    """Base of the dataclasses: parameters of an attack."""

    revision: ClassVar[int] = 1
    norms: ClassVar[tuple[Norm, ...]]
    accesses: ClassVar[tuple[Access, ...]]  # the first one is the default
    unbounded: ClassVar[bool]
    thing: ClassVar[Thing]
    gives: ClassVar[frozenset[str]]

    def __post_init__(self) -> None:
        """Make the attack where it is a class."""
        thing = self.thing
        made = thing.made(arguments(self)) if thing.makes else thing.object
        of = thing.object
        object.__setattr__(self, "made", made)
        # Networks of the attack's own, for the digest of its weights.
        object.__setattr__(self, "held", [slot.get() for slot in slots_of(of, thing.own)])

    def __call__(
        self, view: View, x: Tensor, y: Tensor, *, threat: ThreatModel, rng: Rng
    ) -> Any:
        """Propose images near x (N, C, H, W) that are not classified as y (N,)."""
        given = {
            "threat": threat,
            "rng": rng,
            "generator": generator_of(rng) if "generator" in self.gives else None,
            "eps": threat.radius,
            "norm": threat.norm.value,
        }
        options = {name: value for name, value in given.items() if name in self.gives}
        if not self.thing.makes:
            options |= arguments(self)
        # `made` is given to the class that is built from this one.
        return self.made(view, x, y, **options)  # type: ignore[attr-defined]

    def calls(self, *, stochastic: bool, classes: int) -> Calls | None:
        """Return None: what it costs is known only once it has run."""
        return None

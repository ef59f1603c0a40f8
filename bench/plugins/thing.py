"""What a user has: a function, a network, a class, an object. How it is made, and held.

It becomes a dataclass of parameters, as a plugin of a package is. What runs is made anew, or
copied, for every cell: the user's own stays as it was.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import inspect
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from bench.core.border import blamed
from bench.core.rng import Rng
from bench.errors import PluginError
from bench.plugins.reach import Globals, Slot, holding, slots_of
from bench.plugins.signatures import Field, Signature, signature_of, takes_no_images

CHANCE = ("rng", "generator")


@dataclasses.dataclass(frozen=True)
class Thing:
    """An object with its name in messages, the globals of its code, and how to work with it.

    ``working`` is open while its code makes something; ``read`` loads weights that were named.
    """

    object: Any
    label: str
    own: Globals = dataclasses.field(default_factory=dict)
    working: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
    read: Callable[[nn.Module], nn.Module] | None = None

    @property
    def makes(self) -> bool:
        """Whether the object makes what is wanted: a class, or a function of no images."""
        one = self.object
        return isinstance(one, type) or (inspect.isroutine(one) and takes_no_images(one))

    def declared(self, name: str) -> bool | None:
        """Return what a function, a class or an object says of itself, if it does."""
        return said(self.object, name)

    def made(self, arguments: Mapping[str, Any]) -> Any:
        """Make what is wanted, or copy it where it is ready; raises PluginError."""
        if not self.makes:
            made = copied(self.object)
        else:
            with self.working(), blamed(self.label):
                made = self.object(**arguments)
        if self.read is None:
            return made
        if not isinstance(made, nn.Module):
            raise PluginError(
                f"{self.label} is {article(made)}, which has no place for weights. Name "
                "weights (=FILE) for a network (nn.Module) only."
            )
        return self.read(made)


def plugin_class(
    thing: Thing,
    base: type[Any],
    fields: Sequence[Field],
    **attributes: Any,
) -> type[Any]:
    """Make the dataclass of a thing's parameters."""
    one = thing.object
    # Its own, not that of a base class such as nn.Module.
    written = one.__doc__ if inspect.isroutine(one) else vars(_class_of(one)).get("__doc__")
    doc = inspect.cleandoc(written or f"{thing.label}, as it is.")
    return dataclasses.make_dataclass(
        thing.label,
        fields,
        bases=(base,),
        frozen=True,
        namespace={"__doc__": doc, "__module__": __name__, "thing": thing, **attributes},
    )


def _class_of(one: Any) -> type[Any]:
    return one if isinstance(one, type) else type(one)


def said(thing: Any, name: str) -> bool | None:
    """Return what a thing says of itself by an attribute, None where it says nothing."""
    found = getattr(thing, name, None)
    return found if isinstance(found, bool) else None


def article(one: Any) -> str:
    """Name the type of an object in a sentence."""
    name = type(one).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def maker_signature(thing: Thing, given: Collection[str], expected: str) -> Signature:
    """Read what a class, or a function that makes something, takes; raises PluginError."""
    return signature_of(thing.object, given=given, skip=0, what=thing.label, expected=expected)


def arguments(plugin: Any) -> dict[str, Any]:
    """Return the parameters of a plugin by name."""
    return {field.name: getattr(plugin, field.name) for field in dataclasses.fields(plugin)}


class Held(nn.Module):
    """A callable, with copies of the networks that it finds in globals and closures.

    What it holds are attributes, named as in its code: so it is counted, frozen and moved.
    """

    slots: ClassVar[list[Slot]] = []
    names: ClassVar[list[str]] = []
    function: ClassVar[Callable[..., Any] | None] = None  # None: the object is an attribute
    target: ClassVar[str] = ""

    @classmethod
    def of(
        cls, thing: Thing, made: Any, *, slots: list[Slot] | None = None, **attributes: Any
    ) -> Any:
        """Hold a function, or an object with the globals that its class uses, or ``slots``."""
        is_function = inspect.isroutine(made)
        if slots is None:
            slots = slots_of(made if is_function else type(made), thing.own)
        target = type(made).__name__
        names = _told_apart([slot.name for slot in slots], taken=[*dir(cls), target])
        own = {"slots": slots, "names": names, "target": target, **attributes}
        if is_function:
            own["function"] = staticmethod(made)
        held = type(thing.label, (cls,), own)()
        things = [slot.get() for slot in slots]
        if not is_function:
            things, names = [*things, made], [*names, target]
        for name, one in zip(names, copied(things), strict=True):
            setattr(held, name, one)
        held.took(made)
        if isinstance(made, nn.Module):  # by a method of its own it may call its parts only
            for name, part in getattr(held, target).named_children():
                if not hasattr(held, name):
                    held.add_module(name, part)
        return held

    def took(self, made: Any) -> None:
        """Read what the object says of itself."""

    @property
    def held(self) -> Any:
        """The function or the object that is called."""
        return self.function or getattr(self, self.target)

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Let the code find what is held here."""
        with holding(self.slots, [getattr(self, name) for name in self.names]):
            yield


def _told_apart(names: list[str], *, taken: Collection[str]) -> list[str]:
    """Name attributes after names, of which two modules may have the same."""
    found: list[str] = []
    for name in names:
        while name in taken or name in found:
            name += "_"
        found.append(name)
    return found


def generator_of(rng: Rng) -> torch.Generator:
    """Open torch's generator for a batch: as the first of its streams is, on its device."""
    return torch.Generator(rng.device).manual_seed(seed_of(rng))


@contextlib.contextmanager
def by_batch(rng: Rng) -> Iterator[None]:
    """Seed the generators that code draws from by itself, as the batch's first stream is.

    Around every call of a purifier, hence no ``isolated``: torch.manual_seed takes a
    millisecond where CUDA was not used yet.
    """
    seed, device = seed_of(rng), rng.device
    numbers, python = np.random.get_state(), random.getstate()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numbers)
            random.setstate(python)


def seed_of(rng: Rng) -> int:
    """Derive an integer of a batch's first stream; it waits for the device."""
    return int(rng[:1].bits((1,))) if len(rng) else 0


def copied(thing: Any) -> Any:
    """Copy a thing with all that it holds, where it can be copied."""
    try:
        return copy.deepcopy(thing)
    except Exception:  # a lock, a file or a server: it stays the only one
        return thing

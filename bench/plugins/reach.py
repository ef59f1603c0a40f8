"""Networks that a function uses without holding them: globals of its file, and closures.

A copy of a defense has copies of its networks. A function finds its own in its globals, so
while a copy's turn lasts they hold the copy's.
"""

from __future__ import annotations

import contextlib
import dis
import inspect
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bench.core.networks import has_weights

Globals = Mapping[str, dict[str, Any]]  # of the file and the modules beside it, by name


@dataclass(frozen=True, eq=False)
class Slot:
    """A place where code finds a thing: a name among globals or of a class, or a closure."""

    name: str
    place: dict[str, Any] | types.CellType | type[Any]

    @property
    def where(self) -> tuple[int, str]:
        """Tell this place from others."""
        return id(self.place), self.name

    def get(self) -> Any:
        """Return what is there."""
        if isinstance(self.place, types.CellType):
            return self.place.cell_contents
        if isinstance(self.place, type):
            return vars(self.place)[self.name]
        return self.place[self.name]

    def put(self, thing: Any) -> None:
        """Exchange what is there."""
        if isinstance(self.place, types.CellType):
            self.place.cell_contents = thing
        elif isinstance(self.place, type):
            setattr(self.place, self.name, thing)
        else:
            self.place[self.name] = thing


def slots_of(thing: object, own: Globals) -> list[Slot]:
    """List the places from which a function or a class gets weights, each once."""
    found: dict[tuple[int, str], Slot] = {}
    _look(thing, own, found, set())
    return list(found.values())


@contextlib.contextmanager
def holding(slots: list[Slot], things: list[Any]) -> Iterator[None]:
    """Let each slot hold one of these things."""
    before = [slot.get() for slot in slots]
    for slot, thing in zip(slots, things, strict=True):
        slot.put(thing)
    try:
        yield
    finally:
        for slot, thing in zip(slots, before, strict=True):
            slot.put(thing)


def _look(
    thing: object, own: Globals, found: dict[tuple[int, str], Slot], seen: set[int]
) -> None:
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, type):
        if thing.__module__ in own:
            for base in thing.__mro__:
                for name in [*vars(base)] if base.__module__ in own else ():
                    if _function(vars(base)[name]) is not None:
                        _look(vars(base)[name], own, found, seen)
                    elif not name.startswith("__"):
                        _add(Slot(name, base), own, found, seen)
        return
    function = _function(thing)
    if function is None:
        return
    for name, cell in zip(
        function.__code__.co_freevars, function.__closure__ or (), strict=True
    ):
        _add(Slot(name, cell), own, found, seen)
    names = set(names_in(function.__code__))
    space = function.__globals__
    modules = [
        own[space[name].__name__]
        for name in sorted(names & set(space))
        if isinstance(space[name], types.ModuleType) and space[name].__name__ in own
    ]
    if any(space is known for known in own.values()):
        # The attribute of a module is no global of the same name.
        inside = {name for module in modules for name in names & set(module)}
        for name in sorted(names & set(space) - (inside - set(globals_in(function.__code__)))):
            _add(Slot(name, space), own, found, seen)
    for module in modules:
        for name in sorted(names & set(module)):
            _add(Slot(name, module), own, found, seen)


def _add(slot: Slot, own: Globals, found: dict[tuple[int, str], Slot], seen: set[int]) -> None:
    try:
        thing = slot.get()
    except ValueError:  # a cell that is not assigned yet
        return
    if isinstance(thing, types.ModuleType):
        return
    if isinstance(thing, type) or _function(thing) is not None:
        _look(thing, own, found, seen)
        return
    if has_weights(thing):
        found.setdefault(slot.where, slot)
    _look(type(thing), own, found, seen)


def _function(thing: object) -> types.FunctionType | None:
    """Return the function behind decorators, methods and properties; None for another thing."""
    if isinstance(thing, property):
        thing = thing.fget
    while isinstance(thing, staticmethod | classmethod | types.MethodType):
        thing = thing.__func__
    try:
        thing = inspect.unwrap(thing) if callable(thing) else thing
    except ValueError:  # a circle of decorators
        return None
    return thing if isinstance(thing, types.FunctionType) else None


def names_in(code: types.CodeType) -> Iterator[str]:
    """Name the globals and attributes that code uses, with the functions inside it."""
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from names_in(inner)


def globals_in(code: types.CodeType) -> Iterator[str]:
    """Name the globals that code reads; its attributes may have the same names."""
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield step.argval
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from globals_in(inner)

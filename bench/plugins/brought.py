"""Tensors that take part in a cell although neither its plugin nor its checkpoint holds them.

Code finds them in globals, closures and classes; and a plugin that is trained may load more
beside its checkpoint. Plugins that ship have none: their revision says what they are.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn

from bench.core.networks import digest_of_weights, inside
from bench.errors import PluginError
from bench.plugins.as_attack import MadeAttack
from bench.plugins.code import own_modules
from bench.plugins.reach import Globals, Slot, slots_of
from bench.plugins.sources import ships, spaces_of
from bench.plugins.thing import Held

_ARRAYS = (Tensor, np.ndarray)
_LEAVES = (str, bytes, int, float, complex, type(None), types.ModuleType, *_ARRAYS)


def digests(plugin: object) -> tuple[str | None, str | None]:
    """Hash the tensors that a plugin holds, and those beside it."""
    slots = [] if is_shipped(plugin) else beside(plugin, plugin)
    return digest_of_weights(plugin), digest_beside(slots)


def digest_beside(
    slots: list[Slot], *, made: object = None, checkpoint: Mapping[str, Tensor] | None = None
) -> str | None:
    """Hash the tensors in these places; None without any.

    Where a thing was made from a checkpoint, those that it holds and the checkpoint has not
    are hashed too.
    """
    lines = [f"{slot.name} {digest_of_weights(slot.get())}" for slot in slots]
    if checkpoint is not None:
        known = {digest_of_weights(tensor) for tensor in checkpoint.values()}
        parts = [one for one in _everything(made, set()) if isinstance(one, _ARRAYS)]
        lines += [str(digest) for digest in {digest_of_weights(one) for one in parts} - known]
    if not lines:
        return None
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


@contextlib.contextmanager
def nothing_late(plugin: object, made: object, label: str) -> Iterator[None]:
    """Refuse tensors that a plugin's code puts beside itself when it is called first.

    Raises PluginError where a name has become a tensor, an array or a network.
    """
    if is_shipped(plugin):
        yield
        return
    before = {slot.where for slot in beside(plugin, made)}
    yield
    for slot in beside(plugin, made):
        if slot.where not in before and isinstance(slot.get(), (nn.Module, *_ARRAYS)):
            raise PluginError(
                f"{label} loads '{slot.name}' when it is called: it would be missing in the "
                f"result's key. Load it when the file is loaded ({slot.name} = load() outside "
                "of all functions), or hold it as an attribute."
            )


def is_shipped(plugin: object) -> bool:
    """Whether a plugin, None for the zoo's, is one of bench's own."""
    return plugin is None or (ships(type(plugin)) and not hasattr(plugin, "thing"))


def beside(plugin: object, made: object) -> list[Slot]:
    """List where the code of a thing, and of all its parts, finds tensors that are not held."""
    own, found, held = _own(plugin), dict[tuple[int, str], Slot](), set[tuple[int, str]]()
    parts = list(_everything(made, set()))
    for part in parts:
        if isinstance(part, Held):  # its function is none of its attributes
            held |= {slot.where for slot in part.slots}
            found |= {slot.where: slot for slot in slots_of(part.function, own)}
        elif isinstance(part, MadeAttack):  # has them in a list
            held |= {slot.where for slot in slots_of(part.thing.object, part.thing.own)}
        elif not isinstance(part, _LEAVES):
            code = part if inspect.isroutine(part) else type(part)
            found |= {slot.where: slot for slot in slots_of(code, own)}
    arrays = {id(part) for part in parts if isinstance(part, _ARRAYS)}
    return [
        slot
        for where, slot in found.items()
        if where not in held
        and not {id(one) for one in _everything(slot.get(), set()) if isinstance(one, _ARRAYS)}
        <= arrays
    ]


def _own(plugin: object) -> Globals:
    """Return the globals of all modules that belong to a plugin's code, by name."""
    thing = getattr(plugin, "thing", None)
    top = type(plugin).__module__.partition(".")[0]
    package = {
        name: vars(module)
        for name, module in list(sys.modules.items())
        if isinstance(module, types.ModuleType) and name.partition(".")[0] == top
    }
    own = thing.own if thing else package
    return {**own_modules(), **own, **spaces_of(plugin)}


def _everything(thing: Any, seen: set[int]) -> Iterator[Any]:
    """List a thing and all that it holds, each once."""
    if id(thing) in seen:
        return
    seen.add(id(thing))
    yield thing
    if not isinstance(thing, (*_LEAVES, type)):
        for _, part in inside(thing):
            yield from _everything(part, seen)

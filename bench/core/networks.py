"""Networks that a plugin brings: found wherever it keeps them, frozen in a copy, identified."""

from __future__ import annotations

import copy
import functools
import hashlib
import types
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from bench.errors import PluginError

One = TypeVar("One")
Other = TypeVar("Other")
Network = TypeVar("Network", bound=nn.Module)
_REGISTERED = ("_parameters", "_buffers", "_modules")
_LEAVES = (str, bytes, int, float, complex, type(None), type, types.ModuleType, torch.device)


def frozen(network: Network) -> Network:
    """Make a network what attacks and judge run, in place, and return it.

    Frozen and in evaluation mode, so that passes build no parameter graph and no row depends
    on its batch; channels last, the layout in which convolutions are fastest, where it can be.
    """
    network.eval().requires_grad_(False)
    try:
        return network.to(memory_format=torch.channels_last)
    except RuntimeError:  # weights of five dimensions have no such layout
        return network.to(memory_format=torch.contiguous_format)


def frozen_copies(one: One, other: Other) -> tuple[One, Other]:
    """Freeze all networks in two things, in copies where the caller's would change.

    What they share they share afterwards too. Raises PluginError where a thing that has to be
    copied cannot be.
    """
    things = one, other
    if not all(_is_frozen(network) for network in modules_in(things)):
        try:
            things = copy.deepcopy(things)
        except Exception as error:  # whatever a third-party object raises
            names = " and ".join(type(thing).__name__ for thing in things)
            raise PluginError(
                f"{names} cannot be copied ({type(error).__name__}: {error}), and bench does "
                "not change the networks that it is given. Call .eval().requires_grad_(False)"
                ".to(memory_format=torch.channels_last) on them first."
            ) from error
        freeze(things)
    return things


def freeze(thing: object) -> None:
    """Freeze all networks that a thing is or holds, in place."""
    for network in modules_in(thing):
        frozen(network)


def _is_frozen(network: nn.Module) -> bool:
    tensors = [*network.parameters(), *network.buffers()]
    return (
        not any(module.training for module in network.modules())
        and not any(tensor.requires_grad for tensor in tensors)
        and all(
            tensor.is_contiguous(memory_format=torch.channels_last)
            for tensor in tensors
            if tensor.dim() == 4
        )
    )


def modules_in(thing: object) -> list[nn.Module]:
    """List the outermost modules that a thing is or holds, registered or not, each once."""
    return list(_modules(thing, set()))


def _modules(thing: object, seen: set[int]) -> Iterator[nn.Module]:
    for _, found in _found(thing, "", seen):
        if not isinstance(found, nn.Module):
            continue
        yield found
        parts = list(found.modules())
        seen |= {id(part) for part in parts}
        for part in parts:
            for _, held in _plain(part):
                yield from _modules(held, seen)


def called_networks(thing: object) -> dict[str, nn.Module]:
    """Name the outermost networks that a purifier calls, each once.

    They are what it holds: itself only where it holds none. A list of networks is not
    called, the networks in it are.
    """
    named: dict[str, nn.Module] = {}
    parts = inside(thing) if isinstance(thing, nn.Module) else [("", thing)]
    seen: set[int] = set()
    for name, part in parts:
        for path, found in _found(part, name, seen):
            if isinstance(found, nn.Module):
                named |= called_in(found, path)
    if not named and isinstance(thing, nn.Module):
        return {type(thing).__name__: thing}
    return named


def called_in(module: nn.Module, path: str) -> dict[str, nn.Module]:
    """Name what is called: a list of networks is not, the networks in it are."""
    if type(module).forward is not nn.Module.forward:
        return {path: module}
    return {
        name: network
        for child, part in module.named_children()
        for name, network in called_in(part, f"{path}.{child}").items()
    }


def digest_of_weights(*things: object) -> str | None:
    """Hash every tensor and array that things are made of by SHA-256; None where there is none.

    Parameters, buffers, plain attributes, in modules, dataclasses, containers and closures.
    """
    content, some, seen = hashlib.sha256(), False, set[int]()
    for number, thing in enumerate(things):
        for path, array in _weights(thing, str(number), seen):
            content.update(f"{path} {array.dtype} {array.shape}\0".encode())
            content.update(np.ascontiguousarray(array).tobytes())
            some = True
    return content.hexdigest() if some else None


def has_weights(thing: object) -> bool:
    """Whether a thing is made of any tensor or array."""
    return any(True for _ in _weights(thing, "", set()))


def _weights(thing: object, path: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    for name, found in _found(thing, path, seen):
        if isinstance(found, nn.Module):
            for part, inner in inside(found):
                yield from _weights(inner, f"{name}.{part}", seen)
        elif isinstance(found, Tensor):
            # As bytes: numpy knows no bfloat16.
            yield name, found.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        else:
            yield name, found


def _found(thing: object, path: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """Find modules, tensors and arrays in a thing, by path, and look into no module."""
    if isinstance(thing, _LEAVES) or id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, nn.Module | Tensor | np.ndarray):
        yield path, thing
        return
    for name, part in inside(thing):
        yield from _found(part, f"{path}.{name}" if path else name, seen)


def inside(thing: object) -> list[tuple[str, Any]]:
    """List what a thing holds, by name."""
    if isinstance(thing, nn.Module):
        parts = {name: part for one in _REGISTERED for name, part in vars(thing)[one].items()}
        return [*parts.items(), *_plain(thing)]
    if isinstance(thing, Mapping):
        return [(str(key), part) for key, part in thing.items()]
    if isinstance(thing, list | tuple | set | frozenset):
        return [(str(number), part) for number, part in enumerate(thing)]
    if isinstance(thing, functools.partial):
        return [("func", thing.func), ("args", thing.args), ("keywords", thing.keywords)]
    if isinstance(thing, types.MethodType):
        return [("self", thing.__self__), ("func", thing.__func__)]
    if isinstance(thing, types.FunctionType):
        cells = thing.__closure__ or ()
        return [(str(number), _held(cell)) for number, cell in enumerate(cells)]
    slots = [name for cls in type(thing).__mro__ for name in getattr(cls, "__slots__", ())]
    held = {name: getattr(thing, name) for name in slots if hasattr(thing, name)}
    return [*held.items(), *getattr(thing, "__dict__", {}).items()]


def _plain(module: nn.Module) -> list[tuple[str, Any]]:
    """List the attributes of a module that torch does not register, but for its own."""
    return [(name, part) for name, part in vars(module).items() if not name.startswith("_")]


def _held(cell: types.CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None

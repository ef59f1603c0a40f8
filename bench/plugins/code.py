"""What an object of a script is made of besides its weights: its code and its plain values.

A file is hashed as a whole. An object is hashed by the source of the functions and classes that
it reaches in the user's own modules, and by the values that they use: editing another cell of a
notebook changes no key. Of libraries only the names are taken; their versions are provenance.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import inspect
import linecache
import re
import sys
import sysconfig
import textwrap
import types
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.errors import PluginError
from bench.plugins.reach import Globals, globals_in, names_in
from bench.plugins.sources import SHIPPED

_VALUES = (
    type(None), bool, int, float, complex, str, bytes, type(Ellipsis), PurePath, Fraction,
    range, slice, np.generic, np.dtype, torch.dtype, torch.device, torch.layout, re.Pattern,
)  # fmt: skip
# Objects of the process and of no content, which may reach everything else.
_OPAQUE = ("_thread", "asyncio", "concurrent", "logging", "multiprocessing", "threading")
_OF_A_MODULE = frozenset(vars(nn.Module()))  # training, hooks, ...
_PARTS = ("_parameters", "_buffers", "_modules")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
Seen = dict[int, tuple[int, object]]  # by id; the object is kept, so that no id comes twice


def own_modules() -> dict[str, dict[str, Any]]:
    """Return the globals of all modules that are the user's, by name: of no distribution."""
    return {
        name: vars(module)
        for name, module in list(sys.modules.items())
        if isinstance(module, types.ModuleType) and _is_own(name, module)
    }


def _is_own(name: str, module: types.ModuleType) -> bool:
    if name == "__main__":
        return True
    file = getattr(module, "__file__", None)
    if not file or name.partition(".")[0] in SHIPPED:
        return False
    parts = Path(file).parts
    return not ({"site-packages", "dist-packages"} & set(parts) or file.startswith(_library()))


@functools.cache
def _library() -> tuple[str, ...]:
    return tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib"))


def digest_of_code(thing: object, own: Globals) -> str:
    """Hash code and values of a thing by SHA-256; tensors and arrays are not looked into.

    Raises PluginError where it holds too much.
    """
    content = hashlib.sha256()
    try:
        for line in _lines(thing, own, {}):
            content.update(f"{line}\0".encode("utf-8", "surrogatepass"))
    except RecursionError as error:
        raise PluginError(
            f"a {type(thing).__name__} reaches objects that are too deep to be written down. "
            "Write a function around it, or name it in a file: mine.py:NAME."
        ) from error
    return content.hexdigest()


def _lines(thing: Any, own: Globals, seen: Seen) -> Iterator[str]:
    """Write a thing down; what comes again is named by its number."""
    if isinstance(thing, _VALUES):
        yield f"{type(thing).__name__} {thing!r}"
        return
    if id(thing) in seen:
        yield f"again {seen[id(thing)][0]}"
        return
    seen[id(thing)] = len(seen), thing
    yield type(thing).__name__
    if isinstance(thing, Tensor | np.ndarray):  # the digest of weights has them
        return
    if isinstance(thing, types.ModuleType):
        yield thing.__name__
    elif isinstance(thing, type):
        yield from _of_class(thing, own, seen)
    elif isinstance(thing, enum.Enum):
        yield f"{type(thing).__qualname__}.{thing.name}"
    elif isinstance(thing, types.FunctionType):
        yield from _of_function(thing, own, seen)
    elif isinstance(thing, Mapping):
        for key in sorted(thing, key=repr):
            yield from _lines(key, own, seen)
            yield from _lines(thing[key], own, seen)
    elif isinstance(thing, list | tuple):
        for part in thing:
            yield from _lines(part, own, seen)
    elif isinstance(thing, set | frozenset):
        yield from sorted("\0".join(_lines(part, own, dict(seen))) for part in thing)
    else:
        for name, part in _parts(thing):
            yield name
            yield from _lines(part, own, seen)


def _parts(thing: Any) -> Iterator[tuple[str, Any]]:
    """List what an object is made of, by name."""
    if isinstance(thing, functools.partial):
        yield from (("func", thing.func), ("args", thing.args), ("keywords", thing.keywords))
    elif isinstance(thing, staticmethod | classmethod | types.MethodType):
        yield "func", thing.__func__
        yield "self", getattr(thing, "__self__", None)
    elif isinstance(thing, property):
        yield from (("fget", thing.fget), ("fset", thing.fset))
    elif inspect.isroutine(thing):  # of code in C
        yield "name", getattr(thing, "__qualname__", "")
        yield "self", getattr(thing, "__self__", None)
    else:
        yield "class", type(thing)
        if type(thing).__module__.partition(".")[0] not in _OPAQUE:
            yield from _state(thing)


def _state(thing: Any) -> Iterator[tuple[str, Any]]:
    held = dict(getattr(thing, "__dict__", {}))
    for cls in type(thing).__mro__:
        slots = vars(cls).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(thing, name):
                held[name] = getattr(thing, name)
    for name in sorted(held):
        if not isinstance(thing, nn.Module) or name not in _OF_A_MODULE or name in _PARTS:
            yield name, held[name]
        elif name in _HOOKS:  # their keys count all hooks of the process
            yield name, list(held[name].values())


def _of_class(cls: type[Any], own: Globals, seen: Seen) -> Iterator[str]:
    yield cls.__qualname__
    if cls.__module__ not in own:
        yield cls.__module__
        return
    for base in cls.__bases__:
        yield from _lines(base, own, seen)
    for name, part in sorted(vars(cls).items()):
        if not name.startswith("__") or isinstance(part, types.FunctionType):
            yield name
            yield from _lines(part, own, seen)


def _of_function(function: types.FunctionType, own: Globals, seen: Seen) -> Iterator[str]:
    code, space = function.__code__, function.__globals__
    yield function.__qualname__
    # A library's decorator has the user's function in its closure.
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        yield name
        try:
            yield from _lines(cell.cell_contents, own, seen)
        except ValueError:  # not assigned yet
            yield "nothing"
    if not any(space is known for known in own.values()):
        yield str(function.__module__)
        return
    yield text_of(code)
    yield from _lines(function.__defaults__, own, seen)
    yield from _lines(function.__kwdefaults__, own, seen)
    for name in sorted(set(globals_in(code)) & set(space)):
        yield name
        yield from _lines(space[name], own, seen)
        if isinstance(space[name], types.ModuleType):
            inside = own.get(space[name].__name__, {})
            for attribute in sorted(set(names_in(code)) & set(inside)):
                yield attribute
                yield from _lines(inside[attribute], own, seen)


def text_of(code: types.CodeType) -> str:
    """Return the source of code, where the file still has it; else a digest of the code."""
    linecache.checkcache(code.co_filename)
    lines = linecache.getlines(code.co_filename)
    found = _compiled("".join(lines)).get((code.co_qualname, code.co_firstlineno))
    if found != _digest(code):  # typed at a prompt, generated, or edited since it was imported
        return _digest(code)
    block = inspect.getblock(lines[code.co_firstlineno - 1 :])
    return textwrap.dedent("".join(block)).strip()


@functools.lru_cache(maxsize=16)
def _compiled(text: str) -> dict[tuple[str, int], str]:
    """Compile a file and hash each piece of code in it, by name and first line."""
    try:
        whole = compile(text, "", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):  # of a notebook's own syntax
        return {}
    pieces = [whole]
    for piece in pieces:
        pieces += [inner for inner in piece.co_consts if isinstance(inner, types.CodeType)]
    return {(piece.co_qualname, piece.co_firstlineno): _digest(piece) for piece in pieces}


def _digest(code: types.CodeType) -> str:
    """Hash what code does, wherever it stands; other versions of Python have other bytes."""
    content = hashlib.sha256(code.co_code + code.co_exceptiontable)
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    content.update(repr((names, counts)).encode())
    for value in code.co_consts:
        one = _digest(value) if isinstance(value, types.CodeType) else _constant(value)
        content.update(f"{one}\0".encode("utf-8", "surrogatepass"))
    return content.hexdigest()


def _constant(value: object) -> str:
    return repr(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)

"""The source of what is installed: a module with all that it imports of its own distribution.

Read from disk and never imported, so that it is the same whatever a process imported before.
Imports no torch.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from importlib.machinery import ModuleSpec
from importlib.metadata import Distribution
from pathlib import Path, PurePosixPath
from typing import Any
from weakref import WeakKeyDictionary

SHIPPED = ("bench", "bench_attacks", "bench_defenses")  # their revision says what they are
Spaces = Callable[[], Mapping[str, dict[str, Any]]]  # globals by the name of their module
_of_class: WeakKeyDictionary[type[Any], tuple[str, Spaces]] = WeakKeyDictionary()


def note_source(cls: type[Any], digest: str, spaces: Spaces = dict) -> None:
    """Keep the digest of the source that a plugin's class was read from, and its globals."""
    _of_class[cls] = digest, spaces


def source_of(plugin: object) -> str | None:
    """Return the digest of the source of a plugin or its class; None for one that ships."""
    found = _of_class.get(plugin if isinstance(plugin, type) else type(plugin))
    return found[0] if found else None


def spaces_of(plugin: object) -> Mapping[str, dict[str, Any]]:
    """Return the globals of a plugin's file and of the modules beside it, by module."""
    found = _of_class.get(type(plugin))
    return found[1]() if found else {}


def ships(cls: type[Any]) -> bool:
    """Whether a class is one of bench's own."""
    return cls.__module__.partition(".")[0] in SHIPPED


@functools.cache
def digest_of_shipped() -> str:
    """Hash all files of bench and of the plugins that ship with it by SHA-256."""
    content = hashlib.sha256()
    for top in SHIPPED:
        spec = find_spec(top)
        for folder in (spec and spec.submodule_search_locations) or ():
            for where, folders, names in os.walk(folder):
                folders[:] = sorted(set(folders) - {"__pycache__"})
                for name in sorted(names):
                    path = Path(where, name)
                    found = path.read_bytes()
                    place = path.relative_to(folder).as_posix()
                    content.update(f"{top}/{place} {len(found)}\0".encode() + found)
    return content.hexdigest()


def digest_of_source(module: str, tops: Collection[str]) -> str | None:
    """Hash a module and all that it imports from the top-level packages ``tops`` by SHA-256.

    The packages around a module are part of it; None where no file has it.
    """
    read: dict[str, str] = {}
    seen, wanted = set[str](), [module]
    while wanted:
        name = wanted.pop()
        if name in seen or name.partition(".")[0] not in tops:
            continue
        seen.add(name)
        wanted.append(name.rpartition(".")[0])
        spec = getattr(sys.modules.get(name), "__spec__", None) or find_spec(name)
        path = Path(spec.origin) if spec is not None and spec.origin else None
        if spec is None or path is None or not path.is_file():  # not there, or a mere folder
            continue
        content = path.read_bytes()
        read[name] = hashlib.sha256(content).hexdigest()
        if path.suffix == ".py":
            package = name if spec.submodule_search_locations else name.rpartition(".")[0]
            wanted += _imports(content, package)
    if not read:
        return None
    lines = "".join(f"{name} {read[name]}\n" for name in sorted(read))
    return hashlib.sha256(lines.encode()).hexdigest()


def tops_of(distribution: Distribution, module: str) -> frozenset[str]:
    """Name the top-level packages of a distribution; one in development lists none."""
    parts = [PurePosixPath(file).parts for file in distribution.files or ()]
    names = {one[0].removesuffix(".py") for one in parts if one[-1].endswith(".py")}
    return frozenset({module.partition(".")[0], *names})


def _imports(content: bytes, package: str) -> Iterator[str]:
    """Name the modules that a source may import, anywhere in it: names in modules as well."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):  # of another version of Python
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                around = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*around, *filter(None, [base])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def find_spec(module: str) -> ModuleSpec | None:
    """Find a module like importlib.util.find_spec, but without importing its packages."""
    spec: ModuleSpec | None = None
    path: Sequence[str] | None = None
    parts = module.split(".")
    for depth in range(len(parts)):
        name = ".".join(parts[: depth + 1])
        found = (finder.find_spec(name, path) for finder in sys.meta_path)
        spec = next((candidate for candidate in found if candidate is not None), None)
        if spec is None:
            return None
        path = spec.submodule_search_locations
    return spec

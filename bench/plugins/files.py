"""Plugins in a file: loaded once for its content, identified by all of their own source.

The modules beside the file, which it imports, are its own as well. They are loaded anew for
each file, so that two files in two folders never get each other's `model.py`.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.abc import MetaPathFinder
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    PathFinder,
    SourceFileLoader,
)
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from bench.core.isolation import isolated
from bench.errors import BenchError, PluginError, UsageError, near_files
from bench.plugins.sources import SHIPPED

_SHOWN = 300  # characters of an error in another one
_loaded: dict[Path, Source] = {}  # the latest content of each file
_inside: list[Source] = []  # whose modules are in sys.modules


@dataclass(eq=False)
class Source:
    """A loaded file: its module, the SHA-256 of each file of its own, what was made of it."""

    path: Path
    module: ModuleType
    read: dict[Path, str] = field(default_factory=dict)
    beside: dict[str, ModuleType] = field(default_factory=dict)
    tops: set[str] = field(default_factory=set)  # first parts of the names beside it
    plugins: dict[Any, type[Any]] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """The file's SHA-256; with modules beside it, that of all names and digests."""
        if len(self.read) == 1:
            return self.read[self.path]
        content = hashlib.sha256()
        for path in sorted(self.read):
            content.update(f"{path.relative_to(self.path.parent)} {self.read[path]}\n".encode())
        return content.hexdigest()

    def keep(self, path: str) -> bytes:
        """Read a file and note its digest."""
        content = Path(path).read_bytes()
        self.read[Path(path)] = _sha256(content)
        return content

    def current(self) -> bool:
        """Whether all files are as they were read."""
        return all(
            path.is_file() and _sha256(path.read_bytes()) == digest
            for path, digest in self.read.items()
        )

    def defines(self, thing: object) -> bool:
        """Whether a class or function is written in the file or beside it."""
        module = getattr(thing, "__module__", None)
        return module == self.module.__name__ or module in self.beside

    def namespaces(self) -> dict[str, dict[str, Any]]:
        """Return the globals of the file and of the modules beside it, by module name."""
        own = {self.module.__name__: self.module, **self.beside}
        return {name: vars(module) for name, module in own.items()}


def load(path: str) -> Source:
    """Load a file, or find it loaded with the same content; raises UsageError, PluginError."""
    place = Path(path).expanduser()
    if not place.is_file():
        raise UsageError(f"there is no file {path} (in {Path.cwd()}). {near_files(place)}")
    place = place.resolve()
    known = _loaded.get(place)
    if known is not None and known.current():
        return known
    content = place.read_bytes()
    name = f"_file_{_sha256(str(place).encode() + content)[:16]}"
    spec = importlib.util.spec_from_loader(name, None, origin=str(place))
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    module.__file__ = str(place)
    source = Source(place, module, {place: _sha256(content)})
    sys.modules[name] = module  # dataclasses and type hints look there
    try:
        with working_in(source):
            exec(compile(content, str(place), "exec", dont_inherit=True), vars(module))
    except (Exception, SystemExit) as error:  # whatever a file raises
        del sys.modules[name]
        if isinstance(error, BenchError):
            raise
        raise PluginError(
            f"{place.name} cannot be loaded: {_what(error)}{_line(error, source)}. Repair that "
            "line, or run the command with `bench --debug` to see more."
        ) from error
    _loaded[place] = source
    return source


@contextlib.contextmanager
def working_in(source: Source) -> Iterator[None]:
    """Let code of a file run: modules beside it can be imported, random weights are repeatable.

    The modules stay in place until another file's take it.
    """
    for other in _inside:
        if other is not source:
            for name in other.beside:
                sys.modules.pop(name, None)
    sys.modules.update(source.beside)
    _inside[:] = [source]
    first, last = _Beside(source, namespaces=False), _Beside(source, namespaces=True)
    # As for a script: after what is built in, before all that is installed.
    sys.meta_path.insert(sys.meta_path.index(PathFinder), first)
    sys.meta_path.append(last)
    try:
        with isolated(0):
            yield
    finally:
        sys.meta_path.remove(first)
        sys.meta_path.remove(last)
        found = {*first.found, *last.found} & set(sys.modules)
        source.beside |= {name: sys.modules[name] for name in found}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class _Beside(MetaPathFinder):
    """Finds the modules in a file's folder; ``namespaces`` are folders without __init__.py."""

    def __init__(self, source: Source, *, namespaces: bool) -> None:
        self.source, self.namespaces = source, namespaces
        self.found: set[str] = set()

    def find_spec(
        self, fullname: str, path: Any, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        top = fullname.partition(".")[0]
        if top in SHIPPED or (path is not None and top not in self.source.tops):
            return None
        for place in [self.source.path.parent] if path is None else path:
            spec = FileFinder(
                str(place),
                # Typeshed wants a class here; any callable does.
                (functools.partial(_Reader, self.source), [".py"]),  # type: ignore[arg-type]
                (ExtensionFileLoader, EXTENSION_SUFFIXES),
            ).find_spec(fullname)
            if spec is not None and (spec.loader is None) == self.namespaces:
                if isinstance(spec.loader, ExtensionFileLoader):
                    self.source.keep(spec.loader.path)
                self.source.tops.add(top)
                self.found.add(fullname)
                return spec
        return None


class _Reader(SourceFileLoader):
    """Runs exactly the bytes that it hashed, and writes no __pycache__ into a user's folder."""

    def __init__(self, source: Source, fullname: str, path: str) -> None:
        super().__init__(fullname, path)
        self.source = source

    def get_code(self, fullname: str) -> CodeType:
        """Compile the module afresh."""
        code: CodeType = compile(
            self.source.keep(self.path), self.path, "exec", dont_inherit=True
        )
        return code


def _what(error: BaseException) -> str:
    said = f"{type(error).__name__}: {error}".partition("\n")[0]
    return said if len(said) <= _SHOWN else f"{said[:_SHOWN]}..."


def _line(error: BaseException, source: Source) -> str:
    """Say which line of the file, or of a module beside it, raised an error."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({Path(error.filename).name}:{error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename) in source.read]
    return f" ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else ""

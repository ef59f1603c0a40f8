"""Names of plugins as they are typed: of an entry point, in a file, of a library.

    adv_ebm                             an entry point
    dir/mine.py:Name                    what a file defines
    dir/mine.py:Net=dir/weights.pth     the same, with weights from another file
    torchvision:resnet18=weights.pth    an architecture of a library, with weights
    python:Name                         an object that a script passed to bench.api

A cell keeps the name without its folders, so that the same file elsewhere is the same cell.
Where the files are is said beside the key. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from bench.errors import UsageError

ARCHITECTURES = ("torchvision", "timm")  # libraries of classifiers
ATTACK_LIBRARIES = ("torchattacks", "foolbox", "advlib", "art")
OBJECTS = "python"  # before the names of what a script or a notebook has
_PREFIXES = (*ARCHITECTURES, *ATTACK_LIBRARIES, "robustbench", OBJECTS)
_PLAIN = r"[A-Za-z0-9_-]+"
_IN_FILE = r"\w[\w .+-]*\.py:\w+"
_OF_LIBRARY = rf"(?:{'|'.join(_PREFIXES)}):\w[\w.-]*"
_KEPT = re.compile(f"{_PLAIN}|{_IN_FILE}|{_OF_LIBRARY}")
_FILE = re.compile(r"(?P<source>.+?\.py)(?::(?P<name>[^=]*))?(?:=(?P<weights>.*))?", re.DOTALL)
_LIBRARY = re.compile(
    rf"(?P<source>{'|'.join(_PREFIXES)}):(?P<name>[^=]*)(?:=(?P<weights>.*))?", re.DOTALL
)


@dataclass(frozen=True)
class Typed:
    """A name that says where a plugin comes from: a file or a library, and its weights."""

    source: str  # the path of a file, or a library
    name: str
    weights: str | None = None

    @property
    def in_file(self) -> bool:
        """Whether a file defines it."""
        return self.source.endswith(".py")

    def __str__(self) -> str:
        return f"{self.source}:{self.name}" + (f"={self.weights}" if self.weights else "")


def parsed(name: str) -> Typed | None:
    """Read a name that has a source; None for one of an entry point."""
    found = _LIBRARY.fullmatch(name) or _FILE.fullmatch(name)
    if found is None:
        return None
    return Typed(found["source"], found["name"] or "", found["weights"] or None)


def kept(name: str) -> str:
    """Return the name that a cell has: without folders and weights; raises UsageError."""
    typed = parsed(name)
    if typed is None:
        return name
    short = f"{Path(typed.source).name}:{typed.name}"
    if typed.name and not is_kept(short):
        raise UsageError(
            f"{short!a} cannot name a result. Rename the file: letters, digits, spaces, _ + - "
            "and dots, beginning with a letter, a digit or _."
        )
    return short


def is_kept(name: object) -> bool:
    """Whether this can be a name in a cell: it has nothing that leaves a folder."""
    return isinstance(name, str) and _KEPT.fullmatch(name) is not None


def absolute(name: str) -> str:
    """Return the name with full paths, for another process."""
    return _with_paths(name, lambda path: path.expanduser().absolute())


def portable(name: str) -> str | None:
    """Return the name with paths from here or from the home folder; None without any.

    Results are shared: no user's name is written down where a path can do without.
    """
    typed = parsed(name)
    if typed is None or not (typed.in_file or typed.weights):
        return None
    return _with_paths(name, _portable)


def beside(name: str, folder: Path) -> str:
    """Return the name with the files that are not here looked for in a plan's folder."""

    def found(path: Path) -> Path:
        there = folder / path
        return there if not path.expanduser().exists() and there.exists() else path

    return _with_paths(name, found)


def _portable(path: Path) -> Path:
    whole = path.expanduser().absolute()
    for start, written in ((Path.cwd(), Path()), (Path.home(), Path("~"))):
        if whole.is_relative_to(start):
            return written / whole.relative_to(start)
    return whole


def _with_paths(name: str, change: Callable[[Path], Path]) -> str:
    typed = parsed(name)
    if typed is None:
        return name
    if typed.in_file:
        typed = replace(typed, source=str(change(Path(typed.source))))
    if typed.weights:
        typed = replace(typed, weights=str(change(Path(typed.weights))))
    return str(typed)

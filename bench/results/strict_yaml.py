"""YAML as plans and --set write it: small, plain, with the numbers of YAML 1.2. No torch.

PyYAML follows YAML 1.1, where ``yes`` is true, ``1:30`` is 90 and ``010`` is 8. Here a value is
a number only where it reads as one, and nothing is built from tags.
"""

from __future__ import annotations

import math
import re
import stat
from fractions import Fraction
from pathlib import Path
from typing import Any

import yaml

from bench.errors import UsageError, near_files

_BYTES = 256 * 1024
_DEPTH = 20
_NODES = 10_000  # with aliases multiplied out
_KEYS = 200  # of one mapping
_SCALAR = 10_000  # characters
_KEY = 200  # characters of a key
_NUMBER = 30  # characters
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL = {word: word.lower() == "true" for word in
         ("true", "True", "TRUE", "false", "False", "FALSE")}  # fmt: skip
_NUMERIC = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", re.ASCII)
_LEADING_ZERO = re.compile(r"[-+]?0\d", re.ASCII)
_INFINITE = re.compile(r"([-+]?)\.(inf|Inf|INF)")
_NAN = frozenset({".nan", ".NaN", ".NAN"})


def read_file(path: Path) -> Any:
    """Read a YAML file; raises UsageError where it is no small regular file of sound YAML."""
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode) and not stat.S_ISDIR(about.st_mode):
            raise UsageError(
                f"cannot read the plan {path}: it is not a regular file. Name a YAML file."
            )
        with path.open("rb") as file:
            content = file.read(_BYTES + 1)
    except FileNotFoundError:
        raise UsageError(
            f"there is no plan {path}. {near_files(path)} 'Plans' in docs/usage.md shows how "
            "to write one."
        ) from None
    except (OSError, ValueError) as error:  # a path with a null character is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"cannot read the plan {path}: {reason}. Name a YAML file that can be read."
        ) from error
    if len(content) > _BYTES:
        raise UsageError(
            f"{path} is larger than {_BYTES // 1024} KiB: it is no plan. Name a YAML file."
        )
    try:
        return parse(content.decode())
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no text: {told(error)}. Name a file of YAML.") from error
    except yaml.YAMLError as error:
        raise UsageError(
            f"{path} is not valid YAML: {told(error)}. Check brackets, quotes and indents."
        ) from error


def told(error: Exception) -> str:
    """Write what is wrong with YAML in one line, with its line."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).split())
    begun = error.context_mark
    while_ = f" ({error.context}, begun in line {begun.line + 1})" if begun else ""
    return f"line {error.problem_mark.line + 1}: {error.problem}{while_}"


def parse(text: str) -> Any:
    """Read one YAML value; raises YAMLError with the place of what is wrong."""
    node = _composed(text)
    return None if node is None else _built(node)


def read_nodes(path: Path) -> yaml.Node | None:
    """Read a file again to nodes, which know their lines; None where that fails."""
    try:
        return _composed(path.read_text()[:_BYTES])
    except (OSError, ValueError, yaml.YAMLError):  # it was changed meanwhile
        return None


def _composed(text: str) -> yaml.Node | None:
    loader = _Loader(text)
    try:
        return loader.get_single_node()
    finally:
        loader.dispose()


def _fault(said: str, mark: Any) -> yaml.YAMLError:
    return yaml.MarkedYAMLError(None, None, said, mark)


class _Loader(yaml.SafeLoader):
    """Composes nodes while it counts them, and refuses what it would not end with."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._nodes = 0
        self._sizes: dict[int, int] = {}  # by the id of a whole node, aliases multiplied out

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node; an alias counts as what it stands for."""
        event = self.peek_event()  # type: ignore[no-untyped-call]  # PyYAML's has no types
        mark = event.start_mark
        if getattr(event, "tag", None) is not None:
            raise _fault(f"tags such as {str(event.tag)[:30]} are not read here", mark)
        if isinstance(event, yaml.AliasEvent):
            before = 0
        else:
            self._depth += 1
            self._nodes += 1
            before = self._nodes
        if self._depth > _DEPTH:
            raise _fault(f"it is nested more than {_DEPTH} times", mark)
        node = super().compose_node(parent, index)
        if before:
            self._depth -= 1
            self._sizes[id(node)] = self._nodes - before + 1
        elif id(node) in self._sizes:
            self._nodes += self._sizes[id(node)]
        else:
            raise _fault("an alias stands within what it names", mark)
        if self._nodes > _NODES:
            raise _fault(f"it has more than {_NODES:,} values, aliases multiplied out", mark)
        return node


def _built(node: yaml.Node) -> Any:
    if isinstance(node, yaml.SequenceNode):
        return [_built(inner) for inner in node.value]
    if isinstance(node, yaml.MappingNode):
        return _mapping(node)
    return _scalar(node)


def _mapping(node: yaml.MappingNode) -> dict[str, Any]:
    """Build a mapping, whose keys are text; a key that is written twice is a fault."""
    if len(node.value) > _KEYS:
        raise _fault(f"a mapping has more than {_KEYS} keys", node.start_mark)
    found: dict[str, Any] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode) or len(key.value) > _KEY:
            raise _fault(f"a key has to be text of at most {_KEY} characters", key.start_mark)
        name = _text(key)
        if name in found:
            raise _fault(f"'{name}' is written twice", key.start_mark)
        found[name] = _built(value)
    return found


def _text(node: yaml.Node) -> str:
    text = str(node.value)
    if len(text) > _SCALAR:
        raise _fault(f"a value has more than {_SCALAR:,} characters", node.start_mark)
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise _fault("half of a surrogate pair is no text", node.start_mark)
    return text


def _scalar(node: yaml.Node) -> Any:
    """Build a value: what is quoted is text, and the rest is by the core schema of YAML 1.2."""
    text = _text(node)
    if getattr(node, "style", None) is not None:
        return text
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if infinite := _INFINITE.fullmatch(text):
        return -math.inf if infinite[1] == "-" else math.inf
    if text in _NAN:
        return math.nan
    return _number(text, node.start_mark) if _NUMERIC.fullmatch(text) else text


def _number(text: str, mark: Any) -> int | float:
    """Read a number that keeps its value; raises YAMLError."""
    if len(text) > _NUMBER or re.search(r"[eE][-+]?\d{4}", text):
        raise _fault(f"the number {text[:_NUMBER]} is too long", mark)
    if _LEADING_ZERO.match(text):
        raise _fault(f"write the number {text} without leading zeros, or in quotes", mark)
    if re.fullmatch(r"[-+]?\d+", text):
        return int(text)
    value = float(text)
    if math.isinf(value) or Fraction(repr(value)) != Fraction(text):
        raise _fault(f"the number {text} is not kept exactly: write {value!r}", mark)
    return value

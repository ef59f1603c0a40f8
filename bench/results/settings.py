"""What a user sets: read from --set, kept as data, written as words. Imports no torch.

A cell stores both: ``set`` is the data, ``settings`` the words. Where plugins come from files
it stores their places too, as ``names``. None of them is part of its key.
Earlier cells have only the words, which are read back here and nowhere else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.errors import StoreError, UsageError
from bench.plugins.names import portable
from bench.results.cell import SOURCES, Request, Search

_ONLY_SAID = ("settings", "set", "names", SOURCES)
_PARTS = ("defense", "attack", "classifier")
_TARGET = "defense|attack|classifier|search"
_PATH = re.compile(rf"({_TARGET})(?:\.([^\s=]+))?=")
_NEXT = re.compile(rf" (?=(?:{_TARGET})(?:\.[^\s=]+)?=)")
_NOTES = re.compile(r"(?:^| )((?:images of \S+)?(?:, )?(?:\d+ bits)?)$")
_NOTHING = object()
_SHOWN = 200  # characters of a --set in an error
_DEEPEST = 10  # dots in the path of a parameter


def parse_settings(pairs: list[str]) -> dict[str, dict[str, Any]]:
    """Read ['defense.steps=50', ...] to nested parameters; raises UsageError."""
    import yaml

    from bench.results.strict_yaml import parse, told

    settings: dict[str, dict[str, Any]] = {}
    for pair in pairs:
        path, equals, text = pair.partition("=")
        target, *names = path.strip().split(".")
        shown = pair if len(pair) <= _SHOWN else f"{pair[:_SHOWN]}..."
        if not equals or target not in _PARTS or not all(names):
            raise UsageError(
                f"--set {shown} is not understood. Write defense.NAME=VALUE, attack.NAME=VALUE "
                "or classifier.NAME=VALUE, for instance --set defense.steps=50."
            )
        if not names:
            raise UsageError(f"--set {shown} names no parameter. Write {target}.NAME=VALUE.")
        if any("\ud800" <= letter <= "\udfff" for letter in path):
            raise UsageError(f"--set {shown!a}: half of a surrogate pair is no text.")
        if len(names) > _DEEPEST:
            raise UsageError(f"--set {shown}: a parameter has at most {_DEEPEST} dots.")
        try:
            value = parse(text)
        except yaml.YAMLError as error:
            said = f"--set {shown}: the value cannot be read ({told(error)})."
            raise UsageError(said) from error
        place = settings.setdefault(target, {})
        for name in names[:-1]:
            place = place.setdefault(name, {})
            if not isinstance(place, dict):
                raise UsageError(f"--set {shown} contradicts an earlier --set of '{name}'.")
        place[names[-1]] = value
    return settings


@dataclass(frozen=True)
class Settings:
    """Pairs of a parameter's path and its value, in the order in which they were set.

    ``notes`` say what else is special about the cell, such as "8 bits". ``names`` are plugins
    as they were typed, by kind, where a file has them: it has to be found again.
    """

    pairs: tuple[tuple[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    names: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Settings:
        """Spell out nested parameters, such as {"defense": {"steps": 5}}."""
        return cls(tuple(flat(params)))

    @classmethod
    def asked(cls, request: Request) -> Settings:
        """Collect what a request sets."""
        pairs = cls.of(request.settings).pairs
        if request.search is not Search.FLOAT32:  # no reader of a table may miss it
            pairs += (("search", request.search.value),)
        typed = {name: portable(getattr(request, name)) for name in _PARTS}
        return cls(pairs, names=tuple((name, text) for name, text in typed.items() if text))

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Settings:
        """Read the settings of a cell's content; raises StoreError where they are malformed."""
        if "set" not in content:
            return _from_words(str(content.get("settings", "")), content)
        try:
            kept = content["set"]
            pairs = tuple((str(path), value) for path, value in kept["parameters"])
            names = tuple((str(k), str(v)) for k, v in dict(content.get("names", {})).items())
            return cls(pairs, tuple(map(str, kept["notes"])), names)
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(
                f"'set' or 'names' in cell.json is not what bench wrote ({error}). Delete the "
                "cell's folder and run its command again."
            ) from error

    def stored(self) -> dict[str, Any]:
        """Write what a cell keeps beside its content."""
        pairs = json.loads(json.dumps(self.pairs, default=str))
        kept = {"parameters": pairs, "notes": list(self.notes)}
        places = {"names": dict(self.names)} if self.names else {}
        return {"settings": str(self), "set": kept, **places}

    def words(self) -> list[str]:
        """Write a word for each parameter that was set."""
        return [f"{path}={_value(value)}" for path, value in self.pairs]

    def __str__(self) -> str:
        return " ".join(filter(None, [*self.words(), ", ".join(self.notes)]))

    def only(self, *targets: str) -> Settings:
        """Keep what sets one of these parameters, or a part of it, and no note."""
        return Settings(tuple(pair for pair in self.pairs if _below(pair[0], targets)))

    def without(self, *targets: str) -> Settings:
        """Leave out what sets one of these parameters, or a part of it."""
        kept = tuple(pair for pair in self.pairs if not _below(pair[0], targets))
        return Settings(kept, self.notes, self.names)

    def minus(self, common: Settings) -> Settings:
        """Leave out what is set in the same way in ``common``."""
        words, notes = common.words(), common.notes
        own = zip(self.pairs, self.words(), strict=True)
        return Settings(
            tuple(pair for pair, word in own if word not in words),
            tuple(note for note in self.notes if note not in notes),
        )


NOTHING_SET = Settings()


def common_to(several: Sequence[Settings]) -> Settings:
    """Return what is set in the same way in all of them."""
    if not several:
        return NOTHING_SET
    first = several[0]
    for other in several[1:]:
        first = first.minus(first.minus(other))
    return first


def measured(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a cell's content without what is only said of it: what its key is made of."""
    return {name: value for name, value in content.items() if name not in _ONLY_SAID}


def flat(params: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Spell out nested parameters: the path of each value, such as "training.seed"."""
    for name, value in params.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def has(params: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether parameters have these values, nested ones in the same place."""

    def same(name: str, value: Any) -> bool:
        found = params.get(name)
        if isinstance(value, Mapping) and isinstance(found, Mapping):
            return has(found, value)
        return bool(found == value)

    return all(same(name, value) for name, value in wanted.items())


def lookup(params: Any, path: str, default: Any = None) -> Any:
    """Look up a parameter by its path, such as "training.seed"."""
    for name in path.split("."):
        if not isinstance(params, Mapping) or name not in params:
            return default
        params = params[name]
    return params


def _value(value: Any) -> str:
    text = str(value)
    return repr(text) if any(map(str.isspace, text)) else text


def _below(path: str, targets: tuple[str, ...]) -> bool:
    return any(path == target or path.startswith(f"{target}.") for target in targets)


def _from_words(text: str, content: Mapping[str, Any]) -> Settings:
    """Read the words of an earlier cell, with the values that its parameters have."""
    notes: tuple[str, ...] = ()
    if content.get("images") or content.get("bits"):
        found = _NOTES.search(text)
        if found and found[1]:
            notes, text = tuple(found[1].split(", ")), text[: found.start()]
    pairs = []
    while head := _PATH.match(text):
        value, text = _first_value(text[head.end() :], head[1], head[2], content)
        pairs.append((head[0].rstrip("="), value))
    return Settings(tuple(pairs), (text, *notes) if text else notes)


def _first_value(
    text: str, target: str, name: str | None, content: Mapping[str, Any]
) -> tuple[Any, str]:
    """Split off a value: the cell's own, or else what comes before the next path."""
    part = content.get(target)
    if name and isinstance(part, Mapping):
        own = lookup(part.get("params"), name, _NOTHING)
        if own is not _NOTHING and f"{text} ".startswith(f"{own} "):
            return own, text[len(str(own)) + 1 :]
    value, *rest = _NEXT.split(text, maxsplit=1)
    return value, "".join(rest)

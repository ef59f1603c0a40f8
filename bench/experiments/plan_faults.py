"""Faults of a plan: in words, with the line and the entry they are in. Imports no torch."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic
import yaml

from bench.errors import PlanError
from bench.results.strict_yaml import read_nodes

MOST_FAULTS = 50  # that are told in words
_FEW = 30  # faults, up to which each names all keys that there are
_SHOWN = 30  # characters of a value
_THREATS = "threats: [{norm: Linf, eps: 8/255}]"
_MISSING = {
    "defenses": "defenses: [none]",
    "attacks": "attacks: [apgd]",
    "threats": _THREATS,
    "name": "{name: NAME}",
    "eps": "{norm: Linf, eps: 8/255}",
}
_REMEDIES = {
    "int_type": "write a whole number, without quotes",
    "int_parsing": "write a whole number",
    "bool_type": "write true or false",
    "bool_parsing": "write true or false",
    "string_type": "write a name",
    "list_type": "write a list of values, such as [5, 10]",
    "dict_type": "write a mapping, such as {steps: 5}",
    "model_type": "write a name, or {name: NAME, set: {PARAMETER: VALUE}}",
}


@dataclass(frozen=True)
class Origin:
    """Where a plan is written: how messages call it, its file, and the steps to it inside."""

    where: str
    path: Path
    steps: tuple[int | str, ...] = ()

    @functools.cached_property
    def _root(self) -> yaml.Node | None:
        return read_nodes(self.path)

    def at(self, steps: Sequence[int | str]) -> str:
        """Name a place, as "plan.yaml, line 3, attacks, entry 2"; as far as it is written."""
        node, line, words = self._root, None, []
        for number, step in enumerate((*self.steps, *steps)):
            if isinstance(node, yaml.SequenceNode) and isinstance(step, int):
                node = node.value[step]
                line, word = node.start_mark.line, f"entry {step + 1}"
            elif isinstance(node, yaml.MappingNode) and isinstance(step, str):
                found = [pair for pair in node.value if pair[0].value == step]
                if not found:
                    break
                (key, node), word = found[0], step
                line = key.start_mark.line
            else:  # a single value in place of a list, or of a mapping
                continue
            if number >= len(self.steps):
                words.append(word)
        lines = [] if line is None else [f"line {line + 1}"]
        return ", ".join([self.where, *lines, *words])


def in_words(
    error: pydantic.ValidationError, origin: Origin, keys: Callable[[str | None], Iterable[str]]
) -> Iterator[str]:
    """Translate what pydantic found; ``keys`` lists those of the file, or below one of them."""
    told = error.errors(include_url=False)
    for fault in told[:MOST_FAULTS]:
        yield f"{origin.at(_steps(fault))}: {_sentence(fault, keys, len(told) <= _FEW)}"
    if len(told) > MOST_FAULTS:
        yield f"{origin.where}: {len(told) - MOST_FAULTS} more faults of this kind."


def _steps(fault: Any) -> tuple[int | str, ...]:
    """Leave out the name of a key where the sentence says it."""
    steps: tuple[int | str, ...] = fault["loc"]
    return steps[:-1] if fault["type"] == "missing" else steps


def _sentence(fault: Any, keys: Callable[[str | None], Iterable[str]], in_full: bool) -> str:
    kind, given = fault["type"], _shown(fault["input"])
    *outer, last = fault["loc"]
    if kind == "missing":
        example = f" Write {_MISSING[last]}." if last in _MISSING else f" Add {last}: VALUE."
        return f"the key '{last}' is missing.{example}"
    if kind == "extra_forbidden":
        return _unknown(str(last), list(keys(str(outer[0]) if outer else None)), in_full)
    if kind == "too_short":
        return "it is empty. Name one or more."
    if kind == "model_type" and "threats" in fault["loc"]:
        return f"write a threat as {{norm: Linf, eps: {given}}}."
    if kind in _REMEDIES and fault["input"] is None:
        return f"there is no value: {_REMEDIES[kind]}."
    if kind in _REMEDIES:
        return f"{given} is not what belongs here: {_REMEDIES[kind]}."
    if kind == "literal_error":
        return f"{given} is not known: write {fault['ctx']['expected']}."
    return f"{fault['msg'].rstrip('.')}."


def _unknown(name: str, known: Iterable[str], in_full: bool) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    meant = f" Did you mean '{near[0]}'?" if near else ""
    there = f" Known: {', '.join(known)}." if in_full else ""
    return f"there is no key '{name[:_SHOWN]}'.{meant}{there}"


def _shown(value: Any) -> str:
    text = str(value)
    text = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    return f"'{text}'" if isinstance(value, str) else text


def all_faults(faults: Iterable[str]) -> PlanError:
    """Put faults into one error, each of them once."""
    unique = list(dict.fromkeys(faults))
    head = (
        "the plan has a fault:" if len(unique) == 1 else f"the plan has {len(unique)} faults:"
    )
    told = unique[:MOST_FAULTS]
    if len(unique) > len(told):
        told.append(f"and {len(unique) - len(told)} more.")
    return PlanError("\n  - ".join([head, *told]), unique)

"""bench list and bench show: what can be combined, and what it is."""

from __future__ import annotations

import json
import shutil
import textwrap
from typing import Annotated

import typer

from bench.commands.options import RESULTS, AsJson, Results
from bench.commands.shared import complain, say
from bench.errors import BenchError, unknown_name

_LISTINGS = ("defenses", "attacks", "classifiers", "datasets")
_PROSE = 2  # the indent of a description
_ZOO = "zoo"  # by name only: it takes seconds to import
# The kinds of plugins that ship, in this order; those of others follow.
_SORTS = ("filters", "learned", "energies", "diffusion", "museum", "standard", "references")
_OTHERS = "others"


def listing(what: str) -> dict[str, str]:
    """Describe each name of a listing in one line, importing no plugin."""
    from bench.data.datasets import DATASETS, OTHERS
    from bench.plugins.catalogue import KINDS, catalogue, summary

    (kind,) = (kind for kind in KINDS if kind == what)
    found = {name: summary(point) for name, point in catalogue(kind).items()}
    if kind == "datasets":
        found |= {name: info.summary for name, info in DATASETS.items()} | OTHERS
    return found


def _sorts(what: str) -> dict[str, str]:
    """Name the kind of each plugin of a listing; empty where none has one."""
    from bench.plugins.catalogue import KINDS, sorts

    (kind,) = (kind for kind in KINDS if kind == what)
    found = sorts(kind)
    if not any(found.values()):
        return {}
    return {name: sort or _OTHERS for name, sort in found.items()}


def _zoo() -> dict[str, str]:
    """Name the classifiers of RobustBench's zoo; raises UsageError without robustbench."""
    from bench.models.robustbench import DATASETS, find_threat, zoo_names

    found: dict[str, list[str]] = {}
    for dataset in DATASETS:
        for name in zoo_names(dataset):
            threat = find_threat(name, dataset=dataset)
            found.setdefault(f"robustbench:{name}", []).append(f"{dataset} {threat}")
    return {name: ", ".join(where) for name, where in sorted(found.items())}


def list_(
    what: Annotated[
        str | None,
        typer.Argument(help="attacks, defenses, classifiers, datasets or zoo."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List what can be combined; RobustBench's classifiers with `list zoo` and --json."""
    from bench.plugins.catalogue import KINDS, blocked
    from bench.plugins.names import ATTACK_LIBRARIES

    if what == "models":
        complain("warning: `bench list models` is now `bench list classifiers`.")
        what = "classifiers"
    if what is not None and what not in (*_LISTINGS, _ZOO):
        raise unknown_name("listing", what, (*_LISTINGS, _ZOO))
    tables = {kind: listing(kind) for kind in _LISTINGS if what in (None, kind)}
    if what == _ZOO:
        tables[_ZOO] = _zoo()
    elif as_json and what is None:
        try:
            tables[_ZOO] = _zoo()
        except BenchError as error:
            complain(f"without the zoo: {error}")
    kinds = {name: sorts for name in tables if name != _ZOO and (sorts := _sorts(name))}
    if as_json:
        say(json.dumps({**tables, **({"kinds": kinds} if kinds else {})}, indent=2))
    else:
        if "attacks" in tables:
            tables["attacks"]["LIBRARY:NAME"] = (
                f"an attack of another library: {', '.join(ATTACK_LIBRARIES)}"
            )
        if "classifiers" in tables:
            tables["classifiers"]["robustbench:NAME"] = (
                "any CIFAR classifier of the RobustBench zoo: `bench list zoo`"
            )
        _print(tables, kinds)
    for claimed in KINDS:
        if what in (None, claimed):
            for reason in blocked(claimed).values():
                complain(f"not usable: {reason}")


def _print(tables: dict[str, dict[str, str]], kinds: dict[str, dict[str, str]]) -> None:
    for listed, entries in tables.items():
        say(f"{listed}:")
        width = max(map(len, entries), default=0)
        sorts = kinds.get(listed, {})
        for sort in sorted({sorts.get(name, "") for name in entries}, key=_place):
            if sort:
                say(f"  {sort}:")
            indent = "    " if sort else "  "
            for name, line in entries.items():
                if sorts.get(name, "") == sort:
                    say(f"{indent}{name:<{width}}  {line}")


def _place(sort: str) -> tuple[int, str]:
    """Order kinds: ours, those of others by name, what has none, and what is no plugin."""
    if sort in _SORTS:
        return _SORTS.index(sort), sort
    return len(_SORTS) + (sort == _OTHERS) + 2 * (sort == ""), sort


def show(
    name: Annotated[str, typer.Argument(help="A defense, attack, classifier or data set.")],
    dataset: Annotated[str, typer.Option(help="Whose recipe to show.")] = "digits",
    results: Results = RESULTS,
) -> None:
    """Show a plugin: parameters with types and defaults, what it works with, checkpoints."""
    from bench.models.describe import describe

    width = shutil.get_terminal_size((100, 24)).columns
    for line in describe(name, dataset=dataset, results=results):
        say(_indented(line, width))


def _indented(line: str, width: int) -> str:
    """Break a line that is too long, and indent the rest of a parameter a little more."""
    indent = " " * (len(line) - len(line.lstrip()))
    more = "  " if len(indent) > _PROSE else ""
    return textwrap.fill(
        line.strip(), width, initial_indent=indent, subsequent_indent=indent + more,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip

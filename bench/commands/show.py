"""bench list and bench show: what can be combined, and what it is."""

from __future__ import annotations

from typing import Annotated

import typer

from bench.commands.options import RESULTS, Results
from bench.commands.shared import complain, say
from bench.errors import unknown_name


def list_(
    what: Annotated[
        str | None,
        typer.Argument(help="attacks, defenses, classifiers or datasets; all by default."),
    ] = None,
) -> None:
    """List what can be combined."""
    from bench.data.datasets import DATASETS, OTHERS
    from bench.plugins.catalogue import KINDS, blocked, catalogue, summary

    tables: dict[str, dict[str, str]] = {
        kind: {name: summary(point) for name, point in catalogue(kind).items()}
        for kind in ("defenses", "attacks", "classifiers")
    }
    tables["classifiers"]["robustbench:NAME"] = "any CIFAR classifier of the RobustBench zoo"
    tables["datasets"] = {name: info.summary for name, info in DATASETS.items()}
    others = {name: summary(point) for name, point in catalogue("datasets").items()}
    tables["datasets"] = {**others, **tables["datasets"], **OTHERS}
    if what == "models":
        complain("warning: `bench list models` is now `bench list classifiers`.")
        what = "classifiers"
    if what is not None and what not in tables:
        raise unknown_name("listing", what, tables)
    for kind, entries in tables.items():
        if what in (None, kind):
            say(f"{kind}:")
            width = max(map(len, entries), default=0)
            for name, line in entries.items():
                say(f"  {name:<{width}}  {line}")
    for claimed in KINDS:
        if what in (None, claimed):
            for reason in blocked(claimed).values():
                complain(f"not usable: {reason}")


def show(
    name: Annotated[str, typer.Argument(help="A defense, an attack or a classifier.")],
    dataset: Annotated[str, typer.Option(help="Whose recipe to show.")] = "digits",
    results: Results = RESULTS,
) -> None:
    """Show a plugin: parameters with types and defaults, what it works with, checkpoints."""
    from bench.models.describe import describe

    for line in describe(name, dataset=dataset, results=results):
        say(line)

"""bench list, show, table and doctor: look at what is there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.commands.options import DATA, RESULTS, Data, Results
from bench.commands.shared import complain, say
from bench.errors import UsageError, unknown_name


def list_(
    what: Annotated[
        str | None,
        typer.Argument(help="attacks, defenses, models or datasets; all by default."),
    ] = None,
) -> None:
    """List what can be combined."""
    from bench.datasets import DATASETS
    from bench.registry import catalogue, summary

    tables: dict[str, dict[str, str]] = {
        kind: {name: summary(point) for name, point in catalogue(kind).items()}
        for kind in ("defenses", "attacks", "models")
    }
    tables["models"]["robustbench:NAME"] = "any CIFAR classifier of the RobustBench zoo"
    tables["datasets"] = {name: info.summary for name, info in DATASETS.items()}
    if what is not None and what not in tables:
        raise unknown_name("listing", what, tables)
    for kind, entries in tables.items():
        if what in (None, kind):
            say(f"{kind}:")
            width = max(map(len, entries), default=0)
            for name, line in entries.items():
                say(f"  {name:<{width}}  {line}")


def show(
    name: Annotated[str, typer.Argument(help="A defense, an attack or a classifier.")],
    dataset: Annotated[str, typer.Option(help="Whose recipe to show.")] = "digits",
    results: Results = RESULTS,
) -> None:
    """Show a plugin: parameters with types and defaults, what it works with, checkpoints."""
    from bench.show import describe

    for line in describe(name, dataset=dataset, results=results):
        say(line)


def table(
    form: Annotated[str, typer.Option("--format", help="csv, md or latex.")] = "md",
    worst_case: Annotated[
        bool, typer.Option("--worst-case", help="Add the minimum per image over all attacks.")
    ] = False,
    rule_name: Annotated[
        str | None,
        typer.Option(
            "--rule", help="Decide by single, vote, vote@R, mean-logit or worst-of-N draws."
        ),
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Only this data set.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write to a file.")
    ] = None,
    results: Results = RESULTS,
) -> None:
    """Print the table of all results, from the stored outcomes of every image."""
    from bench.rules import headline, parse_rule
    from bench.store import Store, written
    from bench.table import collect, decided, render, with_worst_case

    if form not in ("csv", "md", "latex"):
        raise unknown_name("format", form, ("csv", "md", "latex"))
    rule = parse_rule(rule_name) if rule_name is not None else None
    store = Store(results)
    frame = collect(store)
    if dataset is not None and not frame.empty:
        present = sorted(set(frame["dataset"]))
        if dataset not in present:
            raise unknown_name("data set with results", dataset, present)
        frame = frame[frame["dataset"] == dataset]
    if frame.empty:
        raise UsageError(
            f"there are no results in {results}. Make some with `bench run`, or name their "
            "folder with --results."
        )
    if rule is not None:
        frame = decided(frame, store, rule)
    if worst_case:
        frame = with_worst_case(frame, store, rule)
    # `form` was checked against the formats above.
    text = render(frame, form)  # type: ignore[arg-type]
    if rule is not None:
        text = headline(rule, form) + text
        empty = int((frame["state"].isin(["done", "void"]) & frame["robust"].isna()).sum())
        if empty:
            complain(
                f"{empty} rows have no value by the rule {rule}: the column `note` of "
                "--format csv says why."
            )
    if output is None:
        typer.echo(text, nl=False)
        return
    with written(output) as temporary:
        temporary.write_text(text)
    say(f"wrote {output}")


def doctor(
    results: Results = RESULTS,
    data: Data = DATA,
) -> None:
    """Check Python, torch, CUDA, RobustBench, data sets, checkpoints and plugins."""
    from bench.doctor import diagnose

    findings = diagnose(data_root=data, results=results)
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        say(f"{finding.state:<4}  {finding.subject:<{width}}  {finding.found}")
        if finding.todo:
            say(f"{'':<4}  {'':<{width}}  -> {finding.todo}")
    if any(finding.state == "fail" for finding in findings):
        raise typer.Exit(1)

"""bench table: the rows of all results."""

from __future__ import annotations

from typing import Annotated

import typer

from bench.commands.options import RESULTS, Output, Results
from bench.commands.shared import complain, exit_if_damaged, say, write_output
from bench.errors import UsageError, unknown_name

_FORMS = ("csv", "md", "latex", "html")
_NEWEST = 20  # rows: about what a screen has


def table(
    form: Annotated[str, typer.Option("--format", help="csv, md, latex or html.")] = "md",
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
    everything: Annotated[
        bool, typer.Option("--all", help=f"Print all rows, not only the newest {_NEWEST}.")
    ] = False,
    output: Output = None,
    results: Results = RESULTS,
) -> None:
    """Print the table of the newest results, from the stored outcomes of every image."""
    from bench.data.names import cell_name
    from bench.results.audits import DAMAGED, damaged_audits
    from bench.results.render import render
    from bench.results.store import Store
    from bench.results.table import collect, decided, newest, with_worst_case
    from bench.results.vote_rules import headline, parse_rule

    if form not in _FORMS:
        raise unknown_name("format", form, _FORMS)
    rule = parse_rule(rule_name) if rule_name is not None else None
    store = Store(results)
    short = form == "md" and not everything and output is None
    alone = dataset is None and not worst_case and rule is None
    frame = collect(store, most=_NEWEST if short and alone else None)
    bad = frame["state"] == DAMAGED
    damaged = list(frame["key"][bad])
    if dataset is not None and not frame.empty:
        dataset = cell_name(dataset)
        present = sorted(set(frame["dataset"][~bad]))
        if dataset not in present:
            raise unknown_name("data set with results", dataset, present)
        frame = frame[bad | (frame["dataset"] == dataset)]
    if frame.empty:
        raise UsageError(
            f"there are no results in {results}. Make some with `bench run`, or name their "
            "folder with --results."
        )
    if rule is not None:
        frame = decided(frame, store, rule)
    if worst_case:
        frame = with_worst_case(frame, store, rule)
    if short:
        rows = frame.attrs["cells"] if alone else len(frame)
        frame = newest(frame, store, _NEWEST)
        if len(frame) < rows:
            complain(
                f"the newest {len(frame)} of {rows} rows. All of them: --all, --format csv or "
                "--output FILE; those of one data set: --dataset NAME."
            )
    if form == "html":
        from bench.webpage.chosen import contents_of
        from bench.webpage.write import table_page

        note = rule.describe() if rule is not None else ""
        text = table_page(frame, contents_of(store, frame), note=note)
    else:
        # `form` was checked against the formats above.
        text = render(frame, form)  # type: ignore[arg-type]
        text = headline(rule, form) + text if rule is not None else text
    if rule is not None:
        empty = int(((frame["state"] == "done") & frame["robust"].isna()).sum())
        if empty:
            complain(
                f"{empty} rows have no value by the rule {rule}: the column `note` of "
                "--format csv says why."
            )
    if output is None:
        say(text, nl=False)
    else:
        write_output(output, text)
        say(f"wrote {output}")
    unread = [f"audit {subject}" for subject in damaged_audits(store)]
    exit_if_damaged([*damaged, *unread], results)

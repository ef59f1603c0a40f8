"""bench table: the rows of all results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from bench.commands.options import RESULTS, Output, Results
from bench.commands.shared import complain, deliver
from bench.errors import UsageError, unknown_name

if TYPE_CHECKING:
    from bench.results.store import Store

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
    from bench.results.store import Store

    if form not in _FORMS:
        raise unknown_name("format", form, _FORMS)
    store = Store(results)
    most = _NEWEST if form == "md" and not everything and output is None else None
    if dataset is None and not worst_case and rule_name is None and form != "html":
        text, damaged = _as_stored(store, form, most)
    else:
        text, damaged = _joined(store, form, most, dataset, worst_case, rule_name)
    deliver(text, output, damaged=damaged, store=store)


def _as_stored(store: Store, form: str, most: int | None) -> tuple[str, list[str]]:
    """Write the rows as they are, without what makes frames of them; name damaged cells."""
    from bench.results.audits import DAMAGED
    from bench.results.render import render
    from bench.results.rows import all_rows, columns_of_rows, newest_rows

    if most is None:
        rows = all_rows(store)
    else:
        rows, cells = newest_rows(store, most)
        _tell_cut(len(rows), cells)
    if not rows:
        raise _nothing(store)
    # `form` was checked against the formats above.
    text = render(columns_of_rows(rows), form)  # type: ignore[arg-type]
    return text, [row["key"] for row in rows if row["state"] == DAMAGED]


def _joined(
    store: Store,
    form: str,
    most: int | None,
    dataset: str | None,
    worst_case: bool,
    rule_name: str | None,
) -> tuple[str, list[str]]:
    """Write rows that are chosen, decided or joined; name damaged cells."""
    from bench.data.names import cell_name
    from bench.results.audits import DAMAGED
    from bench.results.render import render
    from bench.results.table import collect, decided, newest, with_worst_case
    from bench.results.vote_rules import headline, parse_rule

    rule = parse_rule(rule_name) if rule_name is not None else None
    frame = collect(store)
    bad = frame["state"] == DAMAGED
    damaged = list(frame["key"][bad])
    if dataset is not None and not frame.empty:
        dataset = cell_name(dataset)
        present = sorted(set(frame["dataset"][~bad]))
        if dataset not in present:
            raise unknown_name("data set with results", dataset, present)
        frame = frame[bad | (frame["dataset"] == dataset)]
    if frame.empty:
        raise _nothing(store)
    if rule is not None:
        frame = decided(frame, store, rule)
    if worst_case:
        frame = with_worst_case(frame, store, rule)
    if most is not None:
        rows = len(frame)
        frame = newest(frame, store, most)
        _tell_cut(len(frame), rows)
    if form == "html":
        from bench.webpage.chosen import contents_of
        from bench.webpage.write import table_page

        note = rule.describe() if rule is not None else ""
        text = table_page(frame, contents_of(store, frame), note=note)
    else:
        text = render(frame, form)  # type: ignore[arg-type]  # checked against the formats
        text = headline(rule, form) + text if rule is not None else text
    if rule is not None:
        empty = int(((frame["state"] == "done") & frame["robust"].isna()).sum())
        if empty:
            complain(
                f"{empty} rows have no value by the rule {rule}: the column `note` of "
                "--format csv says why."
            )
    return text, damaged


def _nothing(store: Store) -> UsageError:
    return UsageError(
        f"there are no results in {store.root}. Make some with `bench run`, or name their "
        "folder with --results."
    )


def _tell_cut(shown: int, rows: int) -> None:
    if shown < rows:
        complain(
            f"the newest {shown} of {rows} rows. All of them: --all, --format csv or "
            "--output FILE; those of one data set: --dataset NAME."
        )

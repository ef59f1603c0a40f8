"""bench report: a page on one defense, as a reviewer wants to read it."""

from __future__ import annotations

from typing import Annotated

import typer

from bench.commands.options import RESULTS, Norm, OnlyN, Output, Results
from bench.commands.shared import exit_if_damaged, say, write_output


def report(
    defense: Annotated[str, typer.Option(help="The defense to report on.")],
    dataset: Annotated[str, typer.Option(help="The data set.")] = "digits",
    norm: Norm = "Linf",
    eps: Annotated[str, typer.Option(help="Radius, as it was run.")] = "8/255",
    n: OnlyN = None,
    output: Output = None,
    results: Results = RESULTS,
) -> None:
    """Write what was tried on a defense, with which budget, what broke, and what it cost."""
    from bench.core.threat import format_eps, parse_eps, parse_norm
    from bench.data.datasets import check_known
    from bench.results.audits import damaged_audits
    from bench.results.defense_report import find, page
    from bench.results.store import Store

    dataset = check_known(dataset)
    ball = parse_norm(norm)
    radius = format_eps(parse_eps(eps, ball))
    store = Store(results)
    cells = find(store, defense=defense, dataset=dataset, norm=ball, eps=radius, n=n)
    text = page(store, cells)
    if output is None:
        say(text, nl=False)
    else:
        write_output(output, text)
        say(f"wrote {output}")
    unread = [f"audit {subject}" for subject in damaged_audits(store)]
    exit_if_damaged([*store.damaged(), *unread], results)

"""bench compare: whether one cell or defense is better than another."""

from __future__ import annotations

from typing import Annotated

import typer

from bench.commands.shared import RESULTS, Results, say


def compare(
    first: Annotated[str, typer.Argument(help="A cell's key (4+ characters) or a defense.")],
    second: Annotated[str, typer.Argument(help="Another of the same sort.")],
    dataset: Annotated[str | None, typer.Option(help="Only this data set.")] = None,
    norm: Annotated[str | None, typer.Option(help="Only this norm: Linf or L2.")] = None,
    eps: Annotated[str | None, typer.Option(help="Only this radius.")] = None,
    attack: Annotated[str | None, typer.Option(help="Only this attack.")] = None,
    results: Results = RESULTS,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Compare two cells, or two defenses by the attacks that both have, image by image."""
    import json

    from bench.compare import compare
    from bench.paired import lines
    from bench.store import Store

    found = compare(
        Store(results), first, second, dataset=dataset, norm=norm, eps=eps, attack=attack
    )
    if as_json:
        typer.echo(json.dumps(found.canonical(), indent=2))
        return
    for line in lines(found):
        say(line)

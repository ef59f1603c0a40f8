"""bench compare: whether one cell or defense is better than another."""

from __future__ import annotations

from typing import Annotated

import typer

from bench.commands.options import RESULTS, AsJson, OnlyN, Results
from bench.commands.shared import exit_if_damaged, say


def compare(
    first: Annotated[str, typer.Argument(help="A cell's key (4+ characters) or a defense.")],
    second: Annotated[str, typer.Argument(help="The second cell or defense.")],
    dataset: Annotated[str | None, typer.Option(help="Only this data set.")] = None,
    norm: Annotated[str | None, typer.Option(help="Only this norm: Linf or L2.")] = None,
    eps: Annotated[str | None, typer.Option(help="Only this radius.")] = None,
    attack: Annotated[str | None, typer.Option(help="Only this attack.")] = None,
    n: OnlyN = None,
    difference: Annotated[
        float | None,
        typer.Option(help="Also say how many images a difference of this many points needs."),
    ] = None,
    results: Results = RESULTS,
    as_json: AsJson = False,
) -> None:
    """Compare two cells, or two defenses by the attacks that both have, image by image."""
    import json

    from bench.data.names import cell_name
    from bench.plugins.names import kept
    from bench.results.cell_row import damaged_cells
    from bench.results.compare import compare
    from bench.results.paired import lines, needed_for
    from bench.results.store import Store

    store = Store(results)
    found = compare(
        store, kept(first), kept(second), dataset=dataset and cell_name(dataset), norm=norm,
        eps=eps, attack=attack and kept(attack), n=n,
    )  # fmt: skip
    needed = None if difference is None else needed_for(found, difference)
    if as_json:
        said = found.canonical() | ({"claimed_images_needed": needed} if needed else {})
        say(json.dumps(said, indent=2))
    else:
        for line in lines(found):
            say(line)
    if needed and not as_json:
        say(
            f"to find a difference of {difference:g} points (power 80 %, level 5 %): "
            f"{needed['paired']} paired images with as many discordant pairs as here, or "
            f"{needed['unpaired']} images for each defense unpaired"
        )
    exit_if_damaged(list(damaged_cells(store)), results)

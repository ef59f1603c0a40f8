"""bench report: a page on one defense or on all, as a reviewer wants to read it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.commands.options import (
    DATA,
    RESULTS,
    ZOO,
    Data,
    Device,
    OnlyN,
    Output,
    Results,
    Zoo,
)
from bench.commands.shared import deliver, open_workspace, watch
from bench.errors import UsageError

if TYPE_CHECKING:
    from bench.webpage.chosen import Chosen
    from bench.webpage.pictures import Strips

_PAGE = Path("report.html")


def report(
    name: Annotated[
        str | None, typer.Argument(metavar="DEFENSE", help="The defense to report on.")
    ] = None,
    defense: Annotated[
        str | None, typer.Option(help="The same.", show_default="all with --html")
    ] = None,
    html: Annotated[
        bool,
        typer.Option("--html", help=f"Write a page for a browser, {_PAGE} or --output."),
    ] = False,
    dataset: Annotated[
        str | None, typer.Option(help="The data set.", show_default="digits; all with --html")
    ] = None,
    norm: Annotated[
        str | None, typer.Option(help="Linf or L2.", show_default="Linf; both with --html")
    ] = None,
    eps: Annotated[
        str | None,
        typer.Option(help="Radius, as it was run.", show_default="8/255; all with --html"),
    ] = None,
    n: OnlyN = None,
    cell: Annotated[
        str | None,
        typer.Option(help="The key of one of its cells, where they are of several kinds."),
    ] = None,
    settings: Annotated[
        list[str],
        typer.Option("--set", help="Only with this parameter: defense.NAME=VALUE; repeatable."),
    ] = [],
    images: Annotated[
        list[int],
        typer.Option("--image", min=0, help="With --html: show this test image; repeatable."),
    ] = [],
    output: Output = None,
    results: Results = RESULTS,
    device: Device = "auto",
    data: Data = DATA,
    zoo: Zoo = ZOO,
) -> None:
    """Write what was tried on a defense, with which budget, what broke, and what it cost."""
    from bench.plugins.names import kept
    from bench.results.cell_row import damaged_cells
    from bench.results.settings import parse_settings
    from bench.results.store import Store

    if name is not None and defense is not None and name != defense:
        raise UsageError(f"a report is on one defense: give {name} or {defense}, not both.")
    called = name if name is not None else defense
    params = parse_settings(settings)
    if "attack" in params:
        raise UsageError(
            "a report is on all attacks on a defense: choose by --set defense.NAME=VALUE or "
            "classifier.NAME=VALUE."
        )
    asked = {
        **_ball(norm, eps, dataset, whole=html),
        "defense": None if called is None else kept(called),
        "n": n,
        "settings": params,
    }
    store = Store(results)
    if html:
        if cell is not None:
            raise UsageError("--cell chooses for one report: leave it out, or --html.")
        from bench.webpage.chosen import Asked, choose
        from bench.webpage.write import report as page_of

        chosen = choose(store, Asked(**asked))
        pictures = _pictures(chosen, images, results, data, zoo, device)
        output, text = output or _PAGE, page_of(chosen, pictures)
        damaged = list(chosen.unread)
    else:
        if images:
            raise UsageError("pictures need a page for a browser: give --html with --image.")
        if called is None:
            raise UsageError(
                "name the defense: `bench report DEFENSE`. A page on all of them is "
                "`bench report --html`."
            )
        from bench.results.defense_report import find, page

        text = page(store, find(store, **asked, like=cell))
        damaged = list(damaged_cells(store))
    deliver(text, output, damaged=damaged, store=store)


def _ball(
    norm: str | None, eps: str | None, dataset: str | None, *, whole: bool
) -> dict[str, Any]:
    """Read data set and ball; what is not given is any on a ``whole`` page, else a default."""
    from bench.core.threat import format_eps, parse_eps, parse_norm
    from bench.data.datasets import check_known

    ball = parse_norm(norm or "Linf")
    radius = format_eps(parse_eps(eps or "8/255", ball))
    return {
        "dataset": None if whole and dataset is None else check_known(dataset or "digits"),
        "norm": None if whole and norm is None else ball.value,
        "eps": None if whole and eps is None else radius,
    }


def _pictures(
    chosen: Chosen, images: list[int], results: Path, data: Path, zoo: Path, device: str
) -> Strips | None:
    """Read and purify the images that a page shows; the only part of it that needs torch."""
    if not images:
        return None
    workspace = open_workspace(results, data, zoo, device)
    from bench.webpage.defenses import defenses
    from bench.webpage.pictures import strips

    work = strips(chosen, defenses(chosen), images, workspace=workspace)
    return watch(work, quiet=False)

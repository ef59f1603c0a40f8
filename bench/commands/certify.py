"""bench certify: radii within which no attack changes the vote."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from bench.commands.options import (
    DATA,
    RESULTS,
    ZOO,
    AsJson,
    Classifier,
    Data,
    Dataset,
    Defense,
    Device,
    FirstN,
    ImageSize,
    Results,
    Seed,
    Settings,
    Zoo,
)
from bench.commands.shared import open_workspace, out, say, watch
from bench.errors import UsageError

_STEPS = 6  # radii that are shown where none is asked for


def certify(
    defense: Defense,
    dataset: Dataset = "digits",
    image_size: ImageSize = None,
    classifier: Classifier = "small_cnn",
    n: FirstN = 200,
    seed: Seed = 0,
    draws: Annotated[
        int, typer.Option(help="Draws per image that are counted, beside 100 that choose.")
    ] = 1000,
    shard: Annotated[int, typer.Option(help="Images certified at a time.")] = 20,
    radius: Annotated[
        list[str],
        typer.Option(help="An L2 radius to show, such as 0.5; may be repeated."),
    ] = [],
    settings: Settings = [],
    device: Device = "auto",
    results: Results = RESULTS,
    data: Data = DATA,
    zoo: Zoo = ZOO,
    as_json: AsJson = False,
) -> None:
    """Certify L2 radii of a defense that begins with Gaussian noise, from counted votes."""
    import json

    from bench.core.threat import Norm, parse_eps
    from bench.data.datasets import dataset_info
    from bench.data.names import sized
    from bench.results.cell import Request
    from bench.results.settings import parse_settings

    dataset = sized(dataset, image_size)
    parsed = parse_settings(settings)
    if "attack" in parsed:
        raise UsageError("a certificate holds for every attack: take --set attack... out.")
    request = Request.parse(
        defense=defense, attack="noise", dataset=dataset, classifier=classifier, norm="L2",
        eps="inf", n=n, seed=seed, draws=draws, shard=shard, settings=parsed,
    )  # fmt: skip
    wanted = [parse_eps(text, Norm.L2) for text in radius]
    if None in wanted:
        raise UsageError("a certified radius is finite: give --radius a number, such as 0.5.")
    dataset_info(dataset)
    workspace = open_workspace(results, data, zoo, device)
    from bench.certification.report import report
    from bench.certification.run import certify as run
    from bench.results.rows import write_runs

    key = watch(run(request, workspace=workspace), quiet=as_json)
    write_runs(workspace.store)  # whose rows in L2 balls may have a certificate now
    found = report(
        workspace.store, key, [float(one) for one in wanted if one is not None], steps=_STEPS
    )
    if as_json:
        say(json.dumps(found, indent=2))
        return
    _print(found)
    say(f"certificate {key}, {workspace.store.root / 'certificates'}")


def _print(found: dict[str, Any]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    title = (
        f"{found['defense']} before {found['classifier']}, {found['dataset']}, first "
        f"{found['n']} images, noise {found['sigma']:g}, {found['draws']} draws, each radius "
        f"at {100 * found['confidence']:g} %"
    )
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("L2 radius", "certified", "interval"):
        table.add_column(name)
    for row in found["certified"]:
        table.add_row(f"{row['radius']:g}", f"{row['certified']:.1f}",
                      f"{row['low']:.1f}-{row['high']:.1f}")  # fmt: skip
    Console(file=out()).print(table)
    say(
        f"abstains on {found['abstains']:.1f} %; {found['draws']} draws certify no radius "
        f"beyond {found['largest']:.3g}."
    )

"""bench figure: the figures of a paper, each with the numbers behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.commands.options import (
    DATA,
    RESULTS,
    ZOO,
    Access,
    Attack,
    Classifier,
    Data,
    Dataset,
    Device,
    Eps,
    Norm,
    OnlyN,
    Results,
    Seed,
    Settings,
    Shard,
    SomeN,
    Zoo,
    to_write,
)
from bench.commands.shared import exit_if_damaged, open_workspace, say, watch
from bench.errors import UsageError

if TYPE_CHECKING:
    from bench.experiments.prepare import Plugins
    from bench.figures.cells import Wanted
    from bench.results.cell import Request
    from bench.results.store import Store

app = typer.Typer(
    help="Draw a figure of a paper: a PNG, the CSV behind it and a JSON on its origin.",
    no_args_is_help=True,
)

Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="Folder to write to.",
        show_default="RESULTS/figures",
        callback=to_write,
    ),
]
Defenses = Annotated[
    list[str], typer.Option("--defense", help="A defense; may be repeated. All by default.")
]
Attacks = Annotated[
    list[str], typer.Option("--attack", help="An attack; may be repeated. All by default.")
]
OnlyAccess = Annotated[str | None, typer.Option("--access", help="Only cells of this access.")]
OnlySettings = Annotated[
    list[str],
    typer.Option("--set", help="Only cells with this parameter: defense.NAME=VALUE."),
]
OnlySeed = Annotated[int | None, typer.Option("--seed", help="Only cells of this seed.")]


@app.command()
def tradeoff(
    attack: Annotated[str, typer.Option(help="The attack of the cells.")],
    dataset: Dataset = "digits",
    defense: Defenses = [],
    access: OnlyAccess = None,
    norm: Norm = "Linf",
    eps: Eps = "8/255",
    n: OnlyN = None,
    seed: OnlySeed = None,
    settings: OnlySettings = [],
    results: Results = RESULTS,
    output: Output = None,
) -> None:
    """Clean and robust accuracy over the purification steps, from finished cells."""
    from bench.core.threat import format_eps, parse_eps, parse_norm
    from bench.figures import tradeoff as figure
    from bench.figures.cells import Wanted
    from bench.results.settings import parse_settings

    ball = parse_norm(norm)
    radius = format_eps(parse_eps(eps, ball))
    wanted = Wanted(_known(dataset), _kept(defense), _kept([attack]), _access(access),
                    ball.value, radius, n, seed, parse_settings(settings))  # fmt: skip
    words = (*_kept([attack]), access or "", ball.value, radius, *settings)
    _from_cells("tradeoff", figure.collect, figure.draw, wanted, words, results, output)


@app.command()
def curves(
    dataset: Dataset = "digits",
    defense: Defenses = [],
    attack: Attacks = [],
    access: OnlyAccess = None,
    norm: Norm = "Linf",
    n: OnlyN = None,
    seed: OnlySeed = None,
    settings: OnlySettings = [],
    results: Results = RESULTS,
    output: Output = None,
) -> None:
    """Robust accuracy over eps, from finished cells; at eps 0 it is the clean accuracy."""
    from bench.core.threat import parse_norm
    from bench.figures import curves as figure
    from bench.figures.cells import Wanted
    from bench.results.settings import parse_settings

    ball = parse_norm(norm)
    wanted = Wanted(_known(dataset), _kept(defense), _kept(attack), _access(access),
                    ball.value, None, n, seed, parse_settings(settings))  # fmt: skip
    words = (*_kept(attack), access or "", ball.value, *settings)
    _from_cells("curves", figure.collect, figure.draw, wanted, words, results, output)


@app.command()
def energies(
    defense: Annotated[list[str], typer.Option(help="A defense with an energy; repeatable.")],
    attack: Attack,
    dataset: Dataset = "digits",
    classifier: Classifier = "small_cnn",
    norm: Norm = "Linf",
    eps: Eps = "8/255",
    access: Access = None,
    n: SomeN = None,
    seed: Seed = 0,
    shard: Shard = 100,
    settings: Settings = [],
    device: Device = "auto",
    results: Results = RESULTS,
    data: Data = DATA,
    zoo: Zoo = ZOO,
    output: Output = None,
) -> None:
    """Histograms of the energy of clean, attacked and purified images."""
    requests = [
        _request(defense=name, attack=attack, dataset=dataset, classifier=classifier, norm=norm,
                 eps=eps, access=access, n=n, seed=seed, shard=shard, settings=settings)
        for name in defense
    ]  # fmt: skip
    workspace = open_workspace(results, data, zoo, device)
    from bench.experiments.prepare import resolve
    from bench.figures import energies as figure
    from bench.figures.images import about

    pairs = [resolve(request) for request in requests]
    frame, used = watch(figure.collect(pairs, workspace=workspace), quiet=False)
    name = _named("energies", pairs)
    known = {**about(*used), "n": requests[0].n}
    _write(workspace.store, output, name, frame, figure.draw, known)


@app.command()
def strips(
    defense: Annotated[str, typer.Option(help="A defense with an energy and steps.")],
    attack: Attack,
    dataset: Dataset = "digits",
    classifier: Classifier = "small_cnn",
    norm: Norm = "Linf",
    eps: Eps = "8/255",
    access: Access = None,
    count: Annotated[
        int, typer.Option("-m", help="Strips: the first m test images.", min=1)
    ] = 8,
    n: SomeN = None,
    seed: Seed = 0,
    shard: Shard = 100,
    settings: Settings = [],
    device: Device = "auto",
    results: Results = RESULTS,
    data: Data = DATA,
    zoo: Zoo = ZOO,
    output: Output = None,
) -> None:
    """Pictures: clean, attacked, and purified after several steps, with their energies."""
    import functools

    request = _request(defense=defense, attack=attack, dataset=dataset, classifier=classifier,
                       norm=norm, eps=eps, access=access, n=n, seed=seed, shard=shard,
                       settings=settings)  # fmt: skip
    if count > request.n:
        raise UsageError(
            f"-m {count} strips of the first {request.n} images: give -n {count} or more."
        )
    workspace = open_workspace(results, data, zoo, device)
    from bench.experiments.prepare import resolve
    from bench.figures import strips as figure
    from bench.figures.images import about

    plugins = resolve(request)
    frame, pictures, used = watch(
        figure.collect(plugins, count=count, workspace=workspace), quiet=False
    )
    draw = functools.partial(figure.draw, pictures=pictures)
    name = _named("strips", [plugins])
    _write(workspace.store, output, name, frame, draw, {**about(used), "n": count})


@app.command()
def pag(
    defense: Annotated[list[str], typer.Option(help="A defense; may be repeated.")],
    dataset: Dataset = "digits",
    classifier: Classifier = "small_cnn",
    control_classifier: Annotated[
        str | None, typer.Option(help="A classifier to compare with, such as robust_cnn.")
    ] = None,
    norm: Norm = "Linf",
    eps: Annotated[str, typer.Option(help="Radius; large ones show more.")] = "0.5",
    access: Annotated[str, typer.Option(help="How to see the defense: full or bpda.")] = "full",
    steps: Annotated[int, typer.Option(help="Steps of the targeted attack.", min=1)] = 200,
    eot: Annotated[int, typer.Option(help="Draws of a stochastic defense.", min=1)] = 1,
    count: Annotated[int, typer.Option("-m", help="Rows of pictures.", min=1)] = 8,
    n: Annotated[int, typer.Option("-n", help="Images to measure: the first n.")] = 100,
    seed: Seed = 0,
    settings: Settings = [],
    device: Device = "auto",
    results: Results = RESULTS,
    data: Data = DATA,
    zoo: Zoo = ZOO,
    output: Output = None,
) -> None:
    """Perceptually aligned gradients: targeted attacks in a large ball, and what they draw."""
    import functools

    requests = [
        _request(defense=name, attack="noise", dataset=dataset, classifier=classifier,
                 norm=norm, eps=eps, n=n, seed=seed, settings=settings)
        for name in defense
    ]  # fmt: skip
    if count > n:
        raise UsageError(f"-m {count} rows of the first {n} images: give -n {count} or more.")
    workspace = open_workspace(results, data, zoo, device)
    from dataclasses import replace

    from bench.core.threat import Access, format_eps, parse_access
    from bench.data.names import cell_name
    from bench.experiments.prepare import resolve
    from bench.figures import pag as figure
    from bench.figures.images import about
    from bench.figures.output import file_name
    from bench.plugins.names import kept

    seen = parse_access(access)
    if seen not in (Access.FULL, Access.BPDA):
        raise UsageError(
            f"--access {access} hides the gradient of the purifier: use full or bpda."
        )
    pairs = [resolve(request) for request in requests]
    threat = replace(pairs[0].threat, access=seen)
    effort = figure.Effort(threat, steps, eot, count)
    found = watch(
        figure.collect(pairs, control=control_classifier, effort=effort, workspace=workspace),
        quiet=False,
    )
    known = about(*found.used)
    known = {**known, "checkpoints": {**known["checkpoints"], **found.checkpoints}, "n": n}
    del known["cells"]  # nothing of a run is used but its parts
    draw = functools.partial(figure.draw, pictures=found.pictures)
    name = file_name(
        "pag",
        cell_name(dataset),
        *map(kept, defense),
        seen,
        threat.norm,
        format_eps(threat.eps),
    )
    _write(workspace.store, output, name, found.frame, draw, known)


def _request(*, settings: list[str], **options: Any) -> Request:
    from bench.data.datasets import dataset_info, first_images
    from bench.results.cell import Request
    from bench.results.settings import parse_settings

    dataset_info(options["dataset"])
    if options["n"] is None:
        options["n"] = first_images(options["dataset"])
    return Request.parse(settings=parse_settings(settings), **options)


def _named(figure: str, pairs: list[Plugins]) -> str:
    from bench.core.threat import format_eps
    from bench.data.names import cell_name
    from bench.figures.output import file_name
    from bench.plugins.names import kept

    request, threat = pairs[0].request, pairs[0].threat
    names = [kept(pair.request.defense) for pair in pairs]
    dataset, attack = cell_name(request.dataset), kept(request.attack)
    ball = (threat.norm, format_eps(threat.eps))
    return file_name(figure, dataset, *names, attack, threat.access, *ball)


def _write(
    store: Store,
    output: Path | None,
    name: str,
    frame: Any,
    draw: Callable[[Any], Any],
    about: dict[str, Any],
) -> None:
    from bench.figures.output import keep

    for path in keep(output or store.figures, name, frame, draw, about):
        say(f"wrote {path}")


def _known(dataset: str) -> str:
    from bench.data.datasets import check_known

    return check_known(dataset)


def _kept(names: Sequence[str]) -> tuple[str, ...]:
    from bench.plugins.names import kept

    return tuple(map(kept, names))


def _access(name: str | None) -> str | None:
    from bench.core.threat import parse_access

    return None if name is None else parse_access(name).value


def _from_cells(
    name: str,
    collect: Callable[[Store, Wanted], Any],
    draw: Callable[[Any], Any],
    wanted: Wanted,
    words: tuple[str, ...],
    results: Path,
    output: Path | None,
) -> None:
    from bench.figures.cells import about
    from bench.figures.output import file_name
    from bench.results.cell_row import damaged_cells
    from bench.results.store import Store

    store = Store(results)
    frame = collect(store, wanted)
    named = file_name(name, wanted.dataset, *wanted.defenses, *words)
    _write(store, output, named, frame, draw, about(frame))
    exit_if_damaged(list(damaged_cells(store)), results)

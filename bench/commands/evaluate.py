"""bench run, matrix and train: measure what is missing."""

from __future__ import annotations

from typing import Annotated

import typer

from bench.commands.continuous_integration import (
    FailBelow,
    Junit,
    check_measured_here,
    end,
    write_junit,
)
from bench.commands.executor_option import Executor, Jobs, Slurm, check, spread
from bench.commands.options import (
    DATA,
    RESULTS,
    ZOO,
    Access,
    AsJson,
    Attack,
    Classifier,
    Data,
    Dataset,
    Defense,
    Device,
    Draws,
    DryRun,
    Eps,
    ImageSize,
    Norm,
    PlanFile,
    Results,
    Seed,
    Settings,
    Shard,
    SomeN,
    Zoo,
)
from bench.commands.shared import (
    open_workspace,
    opening,
    print_outline,
    print_rows,
    say,
    watch,
)
from bench.errors import PluginError, UsageError, unknown_name


def run(
    defense: Defense,
    attack: Attack,
    dataset: Dataset = "digits",
    image_size: ImageSize = None,
    classifier: Classifier = "small_cnn",
    norm: Norm = "Linf",
    eps: Eps = "8/255",
    access: Access = None,
    n: SomeN = None,
    seed: Seed = 0,
    draws: Draws = 50,
    shard: Shard = 100,
    sequential: Annotated[
        bool, typer.Option(help="Stop drawing for an image once its verdict is clear.")
    ] = False,
    search: Annotated[
        str, typer.Option(help="Precision of the attack's networks: float32 or bfloat16.")
    ] = "float32",
    settings: Settings = [],
    device: Device = "auto",
    results: Results = RESULTS,
    data: Data = DATA,
    zoo: Zoo = ZOO,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print cell, key and cost, and stop.")
    ] = False,
    fail_below: FailBelow = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate one defense under one attack, training what is missing."""
    from bench.data.datasets import dataset_info, first_images
    from bench.data.names import sized
    from bench.experiments.finished import Known, keep, known
    from bench.results.cell import Request
    from bench.results.settings import parse_settings
    from bench.results.store import Store

    dataset = sized(dataset, image_size)
    n = first_images(dataset) if n is None else n
    request = Request.parse(
        defense=defense, attack=attack, dataset=dataset, classifier=classifier, norm=norm,
        eps=eps, access=access, n=n, seed=seed, draws=draws, shard=shard, sequential=sequential,
        search=search, settings=parse_settings(settings),
    )  # fmt: skip
    dataset_info(dataset)
    if not as_json:
        say(opening(request))
    store = Store(results)
    found = None if dry_run else known([request], store=store, data=data, device=device)
    if found is None:
        workspace = open_workspace(results, data, zoo, device)
        from bench.experiments.matrix import evaluate, preview

        if dry_run:
            outline = preview(request, workspace)
            print_outline(outline, as_json=as_json)
            if "impossible" in outline:
                raise typer.Exit(1)
            return
        found = [Known(watch(evaluate(request, workspace=workspace), quiet=as_json))]
        keep(found, [request], store=store, data=data)
    else:
        store.probe()
    from bench.results.rows import write_runs

    key = found[0].key
    rows = [row for row in write_runs(store) if row["key"] == key]
    print_rows(rows, as_json=as_json)
    if not as_json:
        say(f"cell {key}, {store.runs}")
    end(rows, fail_below)


def matrix(
    plan: PlanFile,
    device: Device = "auto",
    results: Results = RESULTS,
    data: Data = DATA,
    zoo: Zoo = ZOO,
    executor: Executor = None,
    jobs: Jobs = None,
    slurm: Slurm = [],
    dry_run: DryRun = False,
    fail_below: FailBelow = None,
    junit: Junit = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate every cell of a plan that is not done yet; run it again to resume."""
    from bench.experiments.finished import keep_plan, known_plan
    from bench.experiments.plan import read_plan
    from bench.results.store import Store

    check_measured_here(executor, fail_below, junit)
    check(executor, jobs, slurm)
    content, store = read_plan(plan), Store(results)
    from bench.results.rows import write_runs

    usual = dry_run or executor or content.audit
    found = None if usual else known_plan(content, store=store, data=data, device=device)
    keys: list[str] = []
    if found is None:
        workspace = open_workspace(results, data, zoo, device)
        from bench.commands.shared import list_cells, measure
        from bench.experiments.matrix import ordered, title

        pairs = ordered(content)
        if dry_run:
            list_cells(content, pairs, workspace, as_json=as_json)
            return
        store.probe()
        try:
            if executor and not spread(
                [(content, pairs)], workspace, executor=executor, jobs=jobs, slurm=slurm,
                device=device, quiet=as_json,
            ):  # fmt: skip
                return
            keys += measure(content, pairs, workspace, quiet=as_json or executor is not None)
            keep_plan(keys, list(map(title, pairs)), content, store=store, data=data)
        finally:
            runs = write_runs(store)
    else:
        store.probe()
        for number, one in enumerate(found, 1):
            keys.append(str(one.key))
            if not as_json:
                say(f"[{number}/{len(found)}] {one.title}")
        runs = write_runs(store)
    measured = set(keys)
    rows = [row for row in runs if row["key"] in measured]
    print_rows(rows, as_json=as_json)
    if junit:
        write_junit(junit, rows, plan=plan, bound=fail_below)
    end(rows, fail_below)


def train(
    name: Annotated[str, typer.Argument(help="A classifier or a trainable defense.")],
    dataset: Annotated[str, typer.Option(help="The data set.")] = "digits",
    classifier: Annotated[
        str, typer.Option(help="The classifier that an adversarial training attacks.")
    ] = "small_cnn",
    settings: Settings = [],
    device: Device = "auto",
    results: Results = RESULTS,
    data: Data = DATA,
    zoo: Zoo = ZOO,
) -> None:
    """Train a classifier or a defense, or find its checkpoint; a killed training resumes."""
    from bench.plugins.catalogue import blocked, catalogue
    from bench.plugins.names import parsed
    from bench.results.cell import Request
    from bench.results.settings import parse_settings

    classifiers, defenses = catalogue("classifiers"), catalogue("defenses")
    if name in catalogue("attacks"):
        raise UsageError(f"{name} is an attack: it has nothing to train.")
    for reason in (blocked("classifiers").get(name), blocked("defenses").get(name)):
        if reason:
            raise PluginError(reason)
    if parsed(name):
        is_classifier = _is_classifier(name)
    elif name not in classifiers and name not in defenses:
        raise unknown_name("classifier or defense", name, [*classifiers, *defenses])
    else:
        is_classifier = name in classifiers
    request = Request.parse(
        defense="none" if is_classifier else name,
        attack="noise",
        dataset=dataset,
        classifier=name if is_classifier else classifier,
        n=1,
        settings=parse_settings(settings),
    )
    workspace = open_workspace(results, data, zoo, device)
    from bench.experiments.matrix import train_only

    path = watch(
        train_only(request, workspace=workspace, classifier_only=is_classifier), quiet=False
    )
    say(str(path))
    say(path.with_suffix(".json").read_text().rstrip())


def _is_classifier(name: str) -> bool:
    """Say which of both a plugin in a file is, if it is trained; raises UsageError."""
    from bench.plugins.catalogue import Kind, plugin

    kinds: tuple[Kind, Kind] = ("defenses", "classifiers")
    for kind in kinds:
        try:
            found = plugin(kind, name)
        except PluginError:  # it is the other kind, or neither
            continue
        if hasattr(found, "start"):
            return kind == "classifiers"
    raise UsageError(f"{name} has nothing to train: it is complete as it is.")

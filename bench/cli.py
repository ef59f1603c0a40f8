"""The command line: parse, call one function, print. Imports torch inside commands alone."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from bench import __version__
from bench.errors import BenchError, UsageError, unknown_name

if TYPE_CHECKING:
    from bench.cell import Request
    from bench.progress import Work
    from bench.workspace import Workspace

app = typer.Typer(
    name="bench",
    help="How robust is a classifier when a purifier cleans each image first?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
Result = TypeVar("Result")
_shown: list[str] = []  # not empty once --debug asked for tracebacks

Results = Annotated[
    Path, typer.Option("--results", help="Results folder.", envvar="BENCH_RESULTS")
]
Data = Annotated[
    Path, typer.Option("--data", help="Folder of the data sets.", envvar="BENCH_DATA")
]
Models = Annotated[
    Path,
    typer.Option("--models", help="Folder of RobustBench's models.", envvar="BENCH_MODELS"),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")]
Settings = Annotated[
    list[str],
    typer.Option("--set", help="A parameter, such as defense.steps=50; may be repeated."),
]
RESULTS, DATA, MODELS = Path("results"), Path("data"), Path("models")


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    if debug:
        _shown.append("traceback")
    if version:
        typer.echo(f"purifybench {__version__}")
        raise typer.Exit


@app.command()
def run(
    defense: Annotated[str, typer.Option(help="A defense: see `bench list defenses`.")],
    attack: Annotated[str, typer.Option(help="An attack: see `bench list attacks`.")],
    dataset: Annotated[
        str, typer.Option(help="digits, mnist, fashion_mnist, cifar10 or cifar100.")
    ] = "digits",
    classifier: Annotated[
        str, typer.Option(help="small_cnn, resnet18 or robustbench:NAME.")
    ] = "small_cnn",
    norm: Annotated[str, typer.Option(help="Linf or L2.")] = "Linf",
    eps: Annotated[str, typer.Option(help="Radius: 8/255, 0.3 or inf; exact.")] = "8/255",
    access: Annotated[
        str | None,
        typer.Option(help="transfer, bpda, full or query.", show_default="the attack's own"),
    ] = None,
    n: Annotated[int, typer.Option("-n", help="Images: the first n of the test set.")] = 500,
    seed: Annotated[int, typer.Option(help="Seed of attack and judge.")] = 0,
    draws: Annotated[int, typer.Option(help="The judge's draws per image.")] = 50,
    shard: Annotated[
        int, typer.Option(help="Images attacked at a time; part of the cell.")
    ] = 100,
    settings: Settings = [],  # noqa: B006 - Typer copies it
    device: Device = "auto",
    results: Results = RESULTS,
    data: Data = DATA,
    models: Models = MODELS,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print cell, key and cost, and stop.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the row as JSON.")] = False,
) -> None:
    """Evaluate one defense under one attack, training what is missing."""
    from bench.cell import Request, parse_settings
    from bench.datasets import dataset_info

    request = Request.parse(
        defense=defense, attack=attack, dataset=dataset, classifier=classifier, norm=norm,
        eps=eps, access=access, n=n, seed=seed, draws=draws, shard=shard,
        settings=parse_settings(settings),
    )  # fmt: skip
    dataset_info(dataset)
    if not as_json:
        _say(_opening(request))
    space = _workspace(results, data, models, device)
    from bench.matrix import evaluate, preview
    from bench.table import write_runs

    if dry_run:
        _print_outline(preview(request, space), as_json=as_json)
        return
    key = _watch(evaluate(request, space=space), quiet=as_json)

    frame = write_runs(space.store)
    rows = frame[frame["key"] == key]
    _print_rows(rows, as_json=as_json)
    if not as_json:
        _say(f"cell {key}, {space.store.runs}")
    _exit_on_trouble(rows)


@app.command()
def matrix(
    plan: Annotated[Path, typer.Argument(help="A plan such as plans/smoke.yaml.")],
    device: Device = "auto",
    results: Results = RESULTS,
    data: Data = DATA,
    models: Models = MODELS,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check and list the cells.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    """Evaluate every cell of a plan that is not done yet; the same command goes on."""
    from bench.plan import read_plan

    content = read_plan(plan)
    space = _workspace(results, data, models, device)
    from bench import matrix as work
    from bench.table import write_runs

    pairs = work.resolve_plan(content)
    if dry_run:
        outlines = [work.preview(plugins.request, space) for plugins in pairs]
        if as_json:
            _print_outline(outlines, as_json=True)
            return
        for plugins, outline in zip(pairs, outlines, strict=True):
            _say(work.title(plugins))
            _print_outline(outline, as_json=False)
        return
    space.store.probe()
    keys = []
    try:
        for number, plugins in enumerate(pairs, 1):
            if not as_json:
                _say(f"[{number}/{len(pairs)}] {work.title(plugins)}")
            keys.append(
                _watch(work.attempt(plugins, space=space, say=_complain), quiet=as_json)
            )
    finally:
        frame = write_runs(space.store)
    rows = frame[frame["key"].isin(keys)]
    _print_rows(rows, as_json=as_json)
    _exit_on_trouble(rows)


@app.command()
def train(
    name: Annotated[str, typer.Argument(help="A classifier or a trainable defense.")],
    dataset: Annotated[str, typer.Option(help="The data set.")] = "digits",
    classifier: Annotated[
        str, typer.Option(help="The classifier that an adversarial training attacks.")
    ] = "small_cnn",
    settings: Settings = [],  # noqa: B006
    device: Device = "auto",
    results: Results = RESULTS,
    data: Data = DATA,
    models: Models = MODELS,
) -> None:
    """Train a classifier or a defense, or find its checkpoint; resumes where it was killed."""
    from bench.cell import Request, parse_settings
    from bench.registry import catalogue

    models_known, defenses_known = catalogue("models"), catalogue("defenses")
    if name in catalogue("attacks"):
        raise UsageError(f"{name} is an attack: it has nothing to train.")
    if name not in models_known and name not in defenses_known:
        raise unknown_name("classifier or defense", name, [*models_known, *defenses_known])
    is_model = name in models_known
    request = Request.parse(
        defense="none" if is_model else name,
        attack="noise",
        dataset=dataset,
        classifier=name if is_model else classifier,
        n=1,
        settings=parse_settings(settings),
    )
    space = _workspace(results, data, models, device)
    from bench.matrix import train_only

    path = _watch(train_only(request, space=space, model_only=is_model), quiet=False)
    _say(str(path))
    _say(path.with_suffix(".json").read_text().rstrip())


@app.command("list")
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
            _say(f"{kind}:")
            width = max(map(len, entries), default=0)
            for name, line in entries.items():
                _say(f"  {name:<{width}}  {line}")


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A defense, an attack or a classifier.")],
    dataset: Annotated[str, typer.Option(help="Whose recipe to show.")] = "digits",
    results: Results = RESULTS,
) -> None:
    """Show a plugin: parameters with types and defaults, what it works with, checkpoints."""
    from bench.show import describe

    for line in describe(name, dataset=dataset, results=results):
        _say(line)


@app.command()
def table(
    form: Annotated[str, typer.Option("--format", help="csv, md or latex.")] = "md",
    worst_case: Annotated[
        bool, typer.Option("--worst-case", help="Add the minimum per image over all attacks.")
    ] = False,
    dataset: Annotated[str | None, typer.Option(help="Only this data set.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write to a file.")
    ] = None,
    results: Results = RESULTS,
) -> None:
    """Print the table of all results, from the stored outcomes of every image."""
    from bench.store import Store, written
    from bench.table import collect, render, with_worst_case

    if form not in ("csv", "md", "latex"):
        raise unknown_name("format", form, ("csv", "md", "latex"))
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
    if worst_case:
        frame = with_worst_case(frame, store)
    text = render(frame, form)  # type: ignore[arg-type]
    if output is None:
        typer.echo(text, nl=False)
        return
    with written(output) as temporary:
        temporary.write_text(text)
    _say(f"wrote {output}")


@app.command()
def doctor(
    results: Results = RESULTS,
    data: Data = DATA,
) -> None:
    """Check Python, torch, CUDA, RobustBench, data sets, checkpoints and plugins."""
    from bench.doctor import diagnose

    findings = diagnose(data_root=data, results=results)
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        _say(f"{finding.state:<4}  {finding.subject:<{width}}  {finding.found}")
        if finding.todo:
            _say(f"{'':<4}  {'':<{width}}  -> {finding.todo}")
    if any(finding.state == "fail" for finding in findings):
        raise typer.Exit(1)


def _workspace(results: Path, data: Path, models: Path, device: str) -> Workspace:
    from bench.store import Store
    from bench.workspace import Workspace, open_device

    return Workspace(Store(results), data, models, open_device(device))


def _opening(request: Request) -> str:
    other = " (choose another: --dataset)" if request.dataset == "digits" else ""
    return (
        f"data set {request.dataset}{other}, first {request.n} test images, "
        f"{request.norm.value} {request.eps}"
    )


def _watch(work: Work[Result], *, quiet: bool) -> Result:
    """Run work to its end under a progress bar on stderr."""
    from bench.progress import finish

    try:
        if quiet:
            return finish(work)
        from bench.bars import watch

        return watch(work)
    except KeyboardInterrupt:  # Typer would end in silence
        _complain("interrupted: what is finished is kept, and the same command goes on there.")
        raise typer.Exit(130) from None


def _print_outline(outline: Any, *, as_json: bool) -> None:
    import json

    if as_json:
        typer.echo(json.dumps(outline, indent=2))
        return
    for name, value in outline.items():
        shown = json.dumps(value) if isinstance(value, (dict, list)) else value
        _say(f"  {name}: {shown}")


def _print_rows(rows: Any, *, as_json: bool) -> None:
    if as_json:
        typer.echo(rows.to_json(orient="records", indent=2))
        return
    from bench.bars import print_table

    print_table(rows)


def _exit_on_trouble(rows: Any) -> None:
    for _, row in rows[rows["state"].isin(["failed", "void", "skipped"])].iterrows():
        _complain(f"{row['defense']} under {row['attack']}: {row['state']}: {row['note']}")
    if rows["state"].isin(["failed", "void"]).any():
        raise typer.Exit(1)


def _say(text: str) -> None:
    typer.echo(text)


def _complain(text: str) -> None:
    typer.echo(text, err=True)


def main() -> None:
    """Run the command line; errors a user can act on are one message and an exit code."""
    _shown.clear()
    try:
        app()
    except BenchError as error:
        if _shown:
            raise
        _complain(f"error: {error}")
        sys.exit(error.exit_code)
    except BrokenPipeError:
        os._exit(1)

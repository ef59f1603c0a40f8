"""bench audit: whether the robust accuracy of a defense is to be believed."""

from __future__ import annotations

from typing import Any

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
    Draws,
    Eps,
    FirstN,
    ImageSize,
    Norm,
    Results,
    Seed,
    Settings,
    Shard,
    Zoo,
)
from bench.commands.shared import open_workspace, out, say, watch


def audit(
    defense: Defense,
    dataset: Dataset = "digits",
    image_size: ImageSize = None,
    classifier: Classifier = "small_cnn",
    norm: Norm = "Linf",
    eps: Eps = "8/255",
    n: FirstN = 256,
    seed: Seed = 0,
    draws: Draws = 50,
    shard: Shard = 100,
    settings: Settings = [],
    device: Device = "auto",
    results: Results = RESULTS,
    data: Data = DATA,
    zoo: Zoo = ZOO,
    as_json: AsJson = False,
) -> None:
    """Run the checks C1 to C29 on a defense and say whether its robust accuracy stands."""
    import json

    from bench.data.datasets import dataset_info
    from bench.data.names import sized
    from bench.results.cell import Request
    from bench.results.settings import parse_settings

    dataset = sized(dataset, image_size)
    request = Request.parse(
        defense=defense, attack="apgd", dataset=dataset, classifier=classifier, norm=norm,
        eps=eps, n=n, seed=seed, draws=draws, shard=shard, settings=parse_settings(settings),
    )  # fmt: skip
    dataset_info(dataset)
    workspace = open_workspace(results, data, zoo, device)
    from bench.audit.run import audit as run_audit

    report = watch(run_audit(request, workspace=workspace), quiet=as_json)
    if as_json:
        say(json.dumps(report, indent=2))
        return
    _print(report)
    if accuracy := report["accuracy"]:
        say(
            f"clean {accuracy['clean']} %; {accuracy['robust']} % "
            f"({accuracy['robust_low']}-{accuracy['robust_high']}) survive the audit's own "
            "attacks."
        )
    say(report["verdict"])


def _print(report: dict[str, Any]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    colours = {"pass": "green", "warn": "yellow", "fail": "red", "n/a": "dim"}
    subject = report["subject"]
    title = (
        f"audit of {subject['defense']['name']}: {subject['dataset']}, {subject['norm']} "
        f"{subject['eps']}, first {subject['n']} images"
    )
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("check", "state", "figure", "threshold", "because"):
        table.add_column(name, overflow="fold", no_wrap=name == "state")
    for found in report["findings"]:
        state = f"[{colours[found['state']]}]{found['state']}[/]"
        name = f"{found['check']} {found['title']}"
        cells = [found[part].replace("[", r"\[") for part in ("figure", "threshold", "reason")]
        table.add_row(name, state, *cells)
    Console(file=out()).print(table)

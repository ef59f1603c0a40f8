"""bench export: a result in the form of another project."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.commands.options import (
    DATA,
    RESULTS,
    Data,
    Dataset,
    Defense,
    Norm,
    OnlyN,
    Results,
    Seed,
    to_write,
)
from bench.commands.shared import open_workspace, say

app = typer.Typer(help="Write a result in the form of another project.", no_args_is_help=True)


@app.callback()
def _export() -> None:
    """Keep `robustbench` a command of its own while it is the only one."""


@app.command()
def robustbench(
    defense: Defense,
    dataset: Dataset = "cifar10",
    norm: Norm = "Linf",
    classifier: Annotated[
        str | None, typer.Option(help="Only cells of this classifier.")
    ] = None,
    n: OnlyN = None,
    seed: Seed = 0,
    cell: Annotated[
        str | None,
        typer.Option(help="The key of one of the cells, where several defenses have the name."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder to write to.",
            show_default="RESULTS/robustbench",
            callback=to_write,
        ),
    ] = None,
    without_images: Annotated[
        bool, typer.Option("--without-images", help="Write the card only.")
    ] = False,
    results: Results = RESULTS,
    data: Data = DATA,
) -> None:
    """Write a leaderboard card of stored cells, and the adversarial images as one tensor."""
    import json

    from bench.core.threat import parse_norm
    from bench.deposits.card import BY_HAND, card
    from bench.deposits.leaderboard import entry
    from bench.plugins.names import kept
    from bench.results.files import written
    from bench.results.store import Store

    store, folder, name = Store(results), output or results / "robustbench", kept(defense)
    made = entry(
        store, defense=name, dataset=dataset, norm=parse_norm(norm).value,
        classifier=classifier, n=n, seed=seed, cell=cell,
    )  # fmt: skip
    found = card(store, made)
    if not without_images:
        import torch

        from bench.deposits.card_images import adversarial

        workspace = open_workspace(results, data, results, "cpu")
        images = adversarial(workspace, made)
        path = folder / f"{_file(name)}.pt"
        with written(path) as temporary:
            torch.save(images, temporary)
        say(f"wrote {path}: adversarial images {tuple(images.shape)}")
    path = folder / f"{_file(name)}.json"
    with written(path) as temporary:
        temporary.write_text(json.dumps(found.fields, indent=2) + "\n")
    say(f"wrote {path}: fill in {', '.join(BY_HAND)} by hand")
    for text in found.broken:
        say(f"breaks a rule of the leaderboard: {text}")
    for text in found.remarks:
        say(f"note: {text}")


def _file(name: str) -> str:
    """Return a name for files: of 'mine.py:Name' every system takes 'mine.py_Name'."""
    return name.replace(":", "_")

"""Options that several commands have, with one name and one text each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from bench.errors import UsageError


def at_home(path: Path | None) -> Path | None:
    """Put the home folder for a leading ``~``, also in variables; raises UsageError."""
    try:
        return path and path.expanduser()
    except RuntimeError:
        raise UsageError(f"the path {path} names a home folder that is not known.") from None


def to_write(path: Path | None) -> Path | None:
    """Do the same for --output, whose folder has to be there; raises UsageError."""
    from bench.results.output import has_place

    if path := at_home(path):
        has_place(path)
    return path


def _names(what: str) -> Callable[[str], list[str]]:
    """Complete the names of a listing, for the shell."""

    def complete(incomplete: str) -> list[str]:
        from bench.commands.show import listing

        return [name for name in listing(what) if name.startswith(incomplete)]

    return complete


Results = Annotated[
    Path,
    typer.Option("--results", help="Results folder.", envvar="BENCH_RESULTS", callback=at_home),
]
Data = Annotated[
    Path,
    typer.Option(
        "--data", help="Folder of the data sets.", envvar="BENCH_DATA", callback=at_home
    ),
]
Zoo = Annotated[
    Path,
    typer.Option(
        "--zoo", help="Folder of RobustBench's files.", envvar=["BENCH_ZOO", "BENCH_MODELS"],
        callback=at_home,
    ),
]  # fmt: skip
Weights = Annotated[
    Path,
    typer.Option(
        "--weights", help="Folder of published weights.", envvar="BENCH_WEIGHTS",
        callback=at_home,
    ),
]  # fmt: skip
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Write to a file.", callback=to_write)
]
PlanFile = Annotated[
    Path, typer.Argument(help="A plan such as plans/smoke.yaml.", callback=at_home)
]
Device = Annotated[
    str, typer.Option("--device", help="auto, cpu, cuda or cuda:1.", envvar="BENCH_DEVICE")
]
Settings = Annotated[
    list[str],
    typer.Option("--set", help="A parameter, such as defense.steps=50; may be repeated."),
]
# RobustBench itself keeps its files in `models` as well.
RESULTS, DATA, ZOO = Path("results"), Path("data"), Path("models")
WEIGHTS = Path("weights")

Defense = Annotated[
    str,
    typer.Option(
        help="A defense: see `bench list defenses`; or mine.py:NAME.",
        autocompletion=_names("defenses"),
    ),
]
Attack = Annotated[
    str,
    typer.Option(
        help="An attack: see `bench list attacks`; or mine.py:NAME.",
        autocompletion=_names("attacks"),
    ),
]
Dataset = Annotated[
    str,
    typer.Option(
        help="digits, mnist, cifar10, file.npz, folder:PATH or folder:PATH@224, which resizes: "
        "see `bench list`.",
        autocompletion=_names("datasets"),
    ),
]
Classifier = Annotated[
    str,
    typer.Option(
        help="small_cnn, resnet18, mine.py:NAME, torchvision:NAME=FILE, timm:NAME=FILE or "
        "robustbench:NAME.",
        autocompletion=_names("classifiers"),
    ),
]
ImageSize = Annotated[
    int | None,
    typer.Option(help="Resize the images of folder:PATH to this many pixels and crop them."),
]
Norm = Annotated[str, typer.Option(help="Linf or L2.")]
Eps = Annotated[str, typer.Option(help="Radius: 8/255, 0.3 or inf; exact.")]
Access = Annotated[
    str | None,
    typer.Option(help="transfer, bpda, full, query or label.", show_default="the attack's own"),
]
FirstN = Annotated[int, typer.Option("-n", help="Images: the first n of the test set.")]
SomeN = Annotated[
    int | None,
    typer.Option(
        "-n",
        help="Images: the first n of the test set.",
        show_default="500; of digits 200",
    ),
]
OnlyN = Annotated[int | None, typer.Option("-n", help="Only cells on this many images.")]
Seed = Annotated[int, typer.Option(help="Seed of attack and judge.")]
Draws = Annotated[int, typer.Option(help="The judge's draws per image.")]
Shard = Annotated[int, typer.Option(help="Images attacked at a time; part of the cell.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check and list the cells.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

"""bench attest: hand in what a number rests on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.commands.options import RESULTS, Results, to_write
from bench.commands.shared import counted, say, watch

DEPOSIT = Path("deposit.zip")


def attest(
    cells: Annotated[
        list[str] | None,
        typer.Argument(
            help="Keys of cells, or a results folder.", show_default="all cells of --results"
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The zip to write.", callback=to_write)
    ] = DEPOSIT,
    without_images: Annotated[
        bool, typer.Option("--without-images", help="Leave the attacked images out.")
    ] = False,
    results: Results = RESULTS,
) -> None:
    """Write a deposit: votes, digests and attacked images of cells, for `bench verify`."""
    from bench.deposits.choose import chosen, results_or_keys
    from bench.deposits.write import attest as write
    from bench.results.store import Store

    folder, asked = results_or_keys(cells or [], results)
    store, images = Store(folder), not without_images
    keys = chosen(store, asked, images=images)
    written = watch(write(store, keys, output, images=images), quiet=False)
    what = "with" if images else "without"
    size = f"{written.size / 1e6:.2f} MB"
    say(f"wrote {output}: {counted(len(keys), 'cell')} {what} attacked images, {size}")
    say(f"SHA-256 {written.sha256}")

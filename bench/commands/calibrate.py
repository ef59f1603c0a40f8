"""bench calibrate: measure the attacks against defenses with known answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.commands.shared import complain, say, watch


def calibrate(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write Markdown to a file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure how far every attack stays from the optimum of defenses with known answers."""
    import dataclasses
    import json

    from bench.calibrate import gaps
    from bench.calibrate.report import document, known_answers
    from bench.provenance import provenance
    from bench.store import written
    from bench.workspace import open_device

    device = open_device("cpu")
    rows = watch(gaps.calibrate(), quiet=as_json)
    origin = provenance(device)
    text = document([known_answers(rows)], origin)
    if output is not None:
        with written(output) as temporary:
            temporary.write_text(text)
    if as_json:
        found = {
            "provenance": origin,
            "seed": gaps.SEED,
            "known_answers": [
                {**dataclasses.asdict(row), "passes": row.passes} for row in rows
            ],
        }
        typer.echo(json.dumps(found, indent=2))
    elif output is None:
        typer.echo(text, nl=False)
    else:
        say(f"wrote {output}")
    failed = gaps.failures(rows)
    for line in failed:
        complain(line)
    if failed:
        raise typer.Exit(1)

"""bench calibrate: measure the attacks against defenses with known answers."""

from __future__ import annotations

from typing import Annotated

import typer

from bench.commands.options import (
    DATA,
    RESULTS,
    ZOO,
    AsJson,
    Data,
    Device,
    Output,
    Results,
    Zoo,
)
from bench.commands.shared import complain, open_workspace, say, watch, write_output

Attacks = Annotated[
    list[str],
    typer.Option(
        "--attack",
        help="Only this attack, such as mine.py:NAME, and no audit; may be repeated.",
    ),
]


def calibrate(
    attack: Attacks = [],  # noqa: B006 - Typer copies it
    output: Output = None,
    results: Results = RESULTS,
    data: Data = DATA,
    zoo: Zoo = ZOO,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure the attacks against known answers, the audit on deliberately broken defenses."""
    import dataclasses
    import json

    from bench.calibration import gaps, traps
    from bench.calibration import report as pages
    from bench.plugins.catalogue import plugin
    from bench.results.provenance import provenance

    for name in attack:
        plugin("attacks", name)  # before minutes of work
    workspace = open_workspace(results, data, zoo, device)
    named = [] if attack else watch(traps.spring(workspace=workspace), quiet=as_json)
    work = gaps.calibrate(names=attack or None, device=workspace.device)
    rows = watch(work, quiet=as_json)
    origin = provenance(workspace.device)
    tables = [pages.known_answers(rows), *([] if attack else [pages.traps(named)])]
    text = pages.document(tables, origin)
    if output is not None:
        write_output(output, text)
    if as_json:
        found = {
            "provenance": origin,
            "seed": gaps.SEED,
            "known_answers": [
                {**dataclasses.asdict(row), "passes": row.passes} for row in rows
            ],
            "traps": [{**dataclasses.asdict(row), "passes": row.passes} for row in named],
        }
        say(json.dumps(found, indent=2))
    elif output is None:
        say(text, nl=False)
    else:
        say(f"wrote {output}")
    failed = gaps.failures(rows)
    failed += [
        f"trap '{row.trap}': {row.found.check} says {row.found.state} of it and "
        f"{row.honest.state} of its honest twin"
        for row in named
        if not row.passes
    ]
    for line in failed:
        complain(line)
    if failed:
        raise typer.Exit(1)

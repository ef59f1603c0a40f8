"""bench judge: judge stored adversarial images again."""

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
    Results,
    Settings,
    Zoo,
)
from bench.commands.shared import exit_on_trouble, open_workspace, print_rows, say, watch
from bench.errors import UsageError


def judge(
    key: Annotated[str, typer.Argument(help="A cell's key, or 4 or more of its characters.")],
    draws: Annotated[
        int | None, typer.Option(help="Judge with this many draws per image.")
    ] = None,
    bits: Annotated[
        int | None,
        typer.Option(help="Round the images to this many bits per pixel."),
    ] = None,
    defense: Annotated[
        str | None, typer.Option(help="Judge on another defense: see `bench list defenses`.")
    ] = None,
    settings: Settings = [],
    device: Device = "auto",
    results: Results = RESULTS,
    data: Data = DATA,
    zoo: Zoo = ZOO,
    as_json: AsJson = False,
) -> None:
    """Judge a finished cell's images again: more draws, rounded, or on another defense."""
    import json
    from dataclasses import asdict

    from bench.results.settings import parse_settings

    chosen = parse_settings(settings)
    if set(chosen) - {"defense"} or (chosen and defense is None):
        raise UsageError("--set belongs to --defense here: --set defense.NAME=VALUE.")
    workspace = open_workspace(results, data, zoo, device)
    from bench.results.rows import whole_rows, write_runs
    from bench.results.store import read_rows
    from bench.verification import rejudge as work

    store = workspace.store
    old = work.find_key(store, key)
    new = watch(
        work.rejudge(
            old, workspace=workspace, draws=draws, bits=bits, defense=defense,
            params=chosen.get("defense"),
        ),
        quiet=as_json,
    )  # fmt: skip
    by_key = {row["key"]: row for row in write_runs(store)}
    rows = [by_key[old], by_key[new]]
    change = work.count_changes(read_rows(store.outcomes(old)), read_rows(store.outcomes(new)))
    if as_json:
        say(json.dumps({"rows": whole_rows(rows), **asdict(change)}, indent=2))
    else:
        print_rows(rows, as_json=False)
        say(
            f"of {change.images} images {change.lost} were robust and are broken now, "
            f"{change.gained} the other way: {change.points:+.1f} points, "
            f"{change.low:+.1f} to {change.high:+.1f} (95 %; McNemar's exact p {change.p:.3g})"
        )
        say(f"cell {new}, {store.runs}")
    exit_on_trouble(rows[1:])

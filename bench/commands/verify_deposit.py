"""bench verify, of a deposit: what a reviewer is told."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from bench.commands.shared import counted, say, watch

_MEANING = {
    "match": "MATCH: nothing contradicts the deposit",
    "mismatch": "MISMATCH: see WRONG above",
    "cannot be checked": "CANNOT BE CHECKED in full: see NOT CHECKED above",
}

if TYPE_CHECKING:
    from bench.deposits.check import Checked
    from bench.results.workspace import Workspace


def verify_deposit(
    path: Path, workspace: Workspace, *, sample: int | None, seed: int | None, as_json: bool
) -> None:
    """Check a deposit with the checkpoints of a workspace; exit with 1 where it is wrong."""
    import json
    from dataclasses import asdict

    from bench.deposits.check import SAMPLE, check

    wanted = SAMPLE if sample is None else sample
    work = check(
        path, sample=wanted, seed=seed, checkpoints=workspace.store, workspace=workspace
    )
    found = watch(work, quiet=as_json)
    if as_json:
        said: dict[str, Any] = {**asdict(found), "verdict": found.verdict}
        say(json.dumps(said, indent=2))
    else:
        _print(found, wanted, workspace.store.root / "checkpoints")
    if found.verdict == "mismatch":
        raise typer.Exit(1)


def _print(found: Checked, wanted: int, folder: Path) -> None:
    from bench.commands.verify import line

    for cell in found.cells:
        say(line(cell))
    for note in found.notes:
        say(f"NOT CHECKED {note}")
    what = "with" if found.images else "without"
    say(
        f"{found.path}: {counted(len(found.cells), 'cell')}, {counted(found.rows, 'image')}, "
        f"{what} attacked images; SHA-256 {found.sha256}"
    )
    all_of_them = ", all that it has" if found.sample < wanted else ""
    only = "" if found.images else ", the clean ones only"
    again = f"--sample {wanted} --seed {found.seed} judges the same ones"
    moved = f"; votes differ on {counted(found.moved, 'image')}" if found.moved else ""
    if found.judged and not found.moved:
        moved = "; every vote is the same"
    drawn = f"{found.judged} of {found.sample} drawn{all_of_them}{only}{moved}"
    say(f"judged again: {drawn} ({again})")
    say(_MEANING[found.verdict])
    if found.judged < found.sample:
        say(f"checkpoints are looked for in {folder} (--checkpoints)")

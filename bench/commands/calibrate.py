"""bench calibrate: measure the attacks against defenses with known answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.commands.options import (
    DATA,
    RESULTS,
    WEIGHTS,
    ZOO,
    AsJson,
    Data,
    Dataset,
    Device,
    Eps,
    OnlyN,
    Output,
    Results,
    Weights,
    Zoo,
)
from bench.commands.shared import complain, open_workspace, say, watch, write_output
from bench.errors import UsageError

if TYPE_CHECKING:
    from bench.calibration.report import Section
    from bench.results.workspace import Workspace

Attacks = Annotated[
    list[str],
    typer.Option(
        "--attack",
        help="Only this attack, such as mine.py:NAME, and no audit; may be repeated.",
    ),
]
Real = Annotated[
    bool, typer.Option("--real", help="Published networks with proofs of what can be broken.")
]
Outside = Annotated[
    bool,
    typer.Option("--outside", help="An independent attack on the images that a ladder left."),
]
Defenses = Annotated[
    list[str],
    typer.Option("--defense", help="With --outside: whose ladder; may be repeated."),
]
OfCell = Annotated[
    list[str],
    typer.Option(
        "--cell",
        help="With --outside: a cell of the ladder, by its key, in place of the options that "
        "describe it; may be repeated.",
    ),
]


def calibrate(
    attack: Attacks = [],
    real: Real = False,
    weights: Weights = WEIGHTS,
    outside: Outside = False,
    defense: Defenses = [],
    dataset: Dataset = "mnist",
    eps: Eps = "0.3",
    n: OnlyN = None,
    cell: OfCell = [],
    output: Output = None,
    results: Results = RESULTS,
    data: Data = DATA,
    zoo: Zoo = ZOO,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure the attacks against known answers, the audit on deliberately broken defenses.

    With --real: against published networks with proofs of what can be broken. With --outside:
    what an independent attack breaks of the images that a ladder left.
    """
    import json

    from bench.calibration.gaps import SEED
    from bench.calibration.report import document
    from bench.plugins.catalogue import plugin
    from bench.results.provenance import provenance

    if outside and (real or attack):
        raise UsageError("--outside goes with neither --real nor --attack: it has its own.")
    if (defense or cell) and not outside:
        raise UsageError("--defense and --cell name a ladder: add --outside.")
    for name in attack:
        plugin("attacks", name)  # before minutes of work
    workspace = open_workspace(results, data, zoo, device)
    if real:
        found, sections, failed = _proven(attack, weights, workspace, as_json)
    elif outside:
        wanted = [{"cell": key} for key in cell] + [{"defense": name} for name in defense]
        given = {"dataset": dataset, "eps": eps, "n": n}
        found, sections, failed = _outside(wanted, given, workspace, as_json)
    else:
        found, sections, failed = _known(attack, workspace, as_json)
    origin = provenance(workspace.device)
    text = document(sections, origin)
    if output is not None:
        write_output(output, text)
    if as_json:
        say(json.dumps({"provenance": origin, "seed": SEED, **found}, indent=2))
    elif output is None:
        say(text, nl=False)
    else:
        say(f"wrote {output}")
    for line in failed:
        complain(line)
    if failed:
        raise typer.Exit(1)


Found = tuple[dict[str, Any], "list[Section]", list[str]]


def _known(attack: Sequence[str], workspace: Workspace, quiet: bool) -> Found:
    """Measure gaps on linear classifiers, and the audit on planted traps."""
    import dataclasses

    from bench.calibration import gaps, traps
    from bench.calibration import report as pages

    named = [] if attack else watch(traps.spring(workspace=workspace), quiet=quiet)
    work = gaps.calibrate(names=attack or None, device=workspace.device)
    rows = watch(work, quiet=quiet)
    failed = gaps.failures(rows)
    failed += [
        f"trap '{row.trap}': {row.found.check} says {row.found.state} of it and "
        f"{row.honest.state} of its honest twin"
        for row in named
        if not row.passes
    ]
    found = {
        "known_answers": [{**dataclasses.asdict(row), "passes": row.passes} for row in rows],
        "traps": [{**dataclasses.asdict(row), "passes": row.passes} for row in named],
    }
    sections = [pages.known_answers(rows), *([] if attack else [pages.traps(named)])]
    return found, sections, failed


def _proven(attack: Sequence[str], weights: Path, workspace: Workspace, quiet: bool) -> Found:
    """Hold attacks against what is proven of published networks."""
    import dataclasses

    from bench.calibration import proven, verdicts

    work = proven.measure(weights=weights, workspace=workspace, names=attack or None)
    rows, facts = watch(work, quiet=quiet)
    found = {
        "proven": [{**dataclasses.asdict(row), "gap": row.gap} for row in rows],
        "networks": [dataclasses.asdict(one) for one in facts],
    }
    return found, verdicts.proven(rows, facts), proven.failures(rows)


def _outside(
    wanted: Sequence[Mapping[str, str]],
    given: Mapping[str, Any],
    workspace: Workspace,
    quiet: bool,
) -> Found:
    """Attack what ladders left from outside."""
    import dataclasses

    from bench.calibration import ladders, verdicts
    from bench.core.threat import Norm, parse_eps

    if not wanted:
        raise UsageError("name a ladder: --defense ebm, or a cell of it: --cell KEY.")
    given = {**given, "eps": parse_eps(given["eps"], Norm.LINF)}
    # All of them before the first hour of work.
    known = [
        ladders.find(ladders.Wanted(**{"defense": "", **given, **one}), workspace.store)
        for one in wanted
    ]
    rows = [
        watch(ladders.check(one, workspace=workspace, effort=ladders.EFFORT), quiet=quiet)
        for one in known
    ]
    found = {
        "outside": [
            {**dataclasses.asdict(row), "share": row.share, "holds": row.holds} for row in rows
        ]
    }
    failed = [
        f"{row.defense} on {row.dataset}: an attack from outside breaks {row.share:.1f} % of "
        f"all images that the ladder left, more than {ladders.LARGEST_SHARE:g} %: its robust "
        "accuracy is an upper bound. Run stronger attacks"
        for row in rows
        if not row.holds
    ]
    return found, [verdicts.outside(rows, ladders.EFFORT)], failed

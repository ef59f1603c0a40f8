"""What bench matrix and bench paper share: the cells of a plan, listed or measured."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from bench.commands.shared import complain, print_outline, say, watch

if TYPE_CHECKING:
    from bench.plan import Plan
    from bench.prepare import Plugins
    from bench.workspace import Workspace


def list_cells(plan: Plan, pairs: list[Plugins], space: Workspace, *, as_json: bool) -> None:
    """Print every cell with its key and cost, and measure nothing."""
    from bench.matrix import preview, title
    from bench.rungs import rungs_below

    below = rungs_below(pairs) if plan.ladder else [[] for _ in pairs]
    outlines: list[dict[str, Any]] = []
    for plugins, rungs in zip(pairs, below, strict=True):
        after = tuple(outlines[rung]["key"] for rung in rungs if "key" in outlines[rung])
        outlines.append(preview(plugins.request, space, after=after))
    if as_json:
        print_outline(outlines, as_json=True)
        return
    for plugins, outline in zip(pairs, outlines, strict=True):
        say(title(plugins))
        print_outline(outline, as_json=False)


def measure(plan: Plan, pairs: list[Plugins], space: Workspace, *, quiet: bool) -> list[str]:
    """Measure what is missing and return the key of every pair; a failure stops no other."""
    from bench import walk

    return walk.measure(
        plan,
        pairs,
        space=space,
        drive=partial(watch, quiet=quiet),
        announce=(lambda _: None) if quiet else say,
        complain=complain,
    )

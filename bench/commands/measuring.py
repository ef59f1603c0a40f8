"""A plan from resolved pairs to finished cells: the loop of bench matrix and bench paper."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.commands.shared import complain, print_outline, say, watch
from bench.errors import BenchError, StoreError

if TYPE_CHECKING:
    from bench.plan import Plan
    from bench.prepare import Plugins
    from bench.workspace import Workspace


def ordered(plan: Plan) -> list[Plugins]:
    """Resolve a plan to pairs in the order in which they run; raises PlanError."""
    from bench.matrix import resolve_plan
    from bench.rungs import cheap_first

    pairs = resolve_plan(plan)
    return cheap_first(pairs) if plan.ladder else pairs


def list_cells(plan: Plan, pairs: list[Plugins], space: Workspace, *, as_json: bool) -> None:
    """Print every cell with its key and cost, and measure nothing."""
    from bench.matrix import preview, title
    from bench.rungs import Ladder

    ladder = Ladder()
    outlines: list[dict[str, Any]] = []
    for plugins in pairs:
        after = ladder.before(plugins) if plan.ladder else ()
        outlines.append(preview(plugins.request, space, after=after))
        if "key" in outlines[-1]:
            ladder.add(plugins, outlines[-1]["key"])
    if as_json:
        print_outline(outlines, as_json=True)
        return
    for plugins, outline in zip(pairs, outlines, strict=True):
        say(title(plugins))
        print_outline(outline, as_json=False)


def measure(plan: Plan, pairs: list[Plugins], space: Workspace, *, as_json: bool) -> list[str]:
    """Measure what is missing and return the key of every pair; a failure stops no other."""
    from bench.matrix import attempt, title
    from bench.rungs import Ladder

    ladder = Ladder()
    keys = []
    for number, plugins in enumerate(pairs, 1):
        if not as_json:
            say(f"[{number}/{len(pairs)}] {title(plugins)}")
        after = ladder.before(plugins) if plan.ladder else ()
        work = attempt(plugins, space=space, say=complain, after=after)
        keys.append(watch(work, quiet=as_json))
        if space.store.outcomes(keys[-1]).is_file():
            ladder.add(plugins, keys[-1])
    if plan.audit:
        _audit(pairs, 256 if plan.audit is True else plan.audit, space, as_json)
    return keys


def _audit(pairs: list[Plugins], images: int, space: Workspace, as_json: bool) -> None:
    """Audit every defense of a plan; one that cannot be audited does not stop the others."""
    from bench.audit.run import audit, audits_of

    for request in audits_of(pairs, images):
        try:
            report = watch(audit(request, space=space), quiet=as_json)
        except StoreError:  # nothing more can be kept
            raise
        except BenchError as error:
            complain(f"no audit of {request.defense}: {error}")
        else:
            complain(f"audit of {request.defense}: {report['verdict']}")

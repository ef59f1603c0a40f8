"""A ladder by yield: first what breaks most per pass, as a pilot on a few other images shows.

The pilot tries every attack on the same images, and its cells are cells like others: all
processes share them, and the order follows from what they stored. To attack what is left at the
best price is the greedy algorithm for weighted set cover (Chvatal 1979).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from bench.core.threat import Access, format_eps
from bench.data.datasets import held_out
from bench.data.names import cell_name
from bench.experiments.attack_order import announced
from bench.experiments.plan import Plan
from bench.experiments.prepare import Plugins
from bench.results.cell import ladder_of
from bench.results.cell_row import void_note
from bench.results.store import Store, read_json, read_rows


@dataclass(frozen=True)
class Trial:
    """What an attack did in a pilot: the images that it broke, and its passes in all."""

    broken: frozenset[int]
    passes: int


def pilot_of(plan: Plan, pairs: Sequence[Plugins]) -> tuple[Plan, list[Plugins]]:
    """Return the pilot as a plan, and its pairs: the supported ones of a plan, in its order."""
    few = plan.model_copy(update={"ladder": False, "audit": False, "n": plan.tried_on})
    tried = [
        replace(
            pair,
            request=replace(
                pair.request, dataset=held_out(pair.request.dataset), n=plan.tried_on
            ),
        )
        for pair in _supported(pairs)
    ]
    return few, tried


def trials(
    pairs: Sequence[Plugins], keys: Iterable[str | None], store: Store
) -> dict[int, Trial]:
    """Read what a finished pilot found, by the place of a pair in the plan.

    ``keys`` are those of the pilot's cells. An attack without a number, whose cell failed or is
    void, is not among what is returned.
    """
    found = {}
    places = [number for number, pair in enumerate(pairs) if not pair.impossible]
    for number, key in zip(places, keys, strict=True):
        if key is None or not store.outcomes(key).is_file():
            continue
        rows = read_rows(store.outcomes(key))
        if void_note(rows):
            continue
        about = read_json(store.cell(key) / "provenance.json")
        broken = rows["index"][rows["clean"] & ~rows["robust"]]
        found[number] = Trial(frozenset(broken), sum(about["attack passes"].values()))
    return found


def by_yield(pairs: Sequence[Plugins], found: Mapping[int, Trial]) -> list[int]:
    """Order the places of pairs, each ladder by itself, in which its attacks run.

    First those whose images all purifiers share, which see all images anyway. Then always the
    one that breaks most per pass of what is left; then those that break nothing more, and those
    that the pilot has no number of. Equal ones go by announced cost, then as in the plan.
    """
    ladders: dict[str, list[int]] = defaultdict(list)
    for number, pair in enumerate(pairs):
        ladders[ladder_of(pair.asked())].append(number)
    order: list[int] = []
    for ladder in ladders.values():
        costs = {number: announced(pairs[number]) for number in ladder}
        by_cost = sorted(ladder, key=lambda number: costs[number])
        shared = [one for one in by_cost if pairs[one].threat.access is Access.TRANSFER]
        broken = {image for one in shared if one in found for image in found[one].broken}
        rest = [one for one in by_cost if one not in shared]
        known = {one: found[one] for one in rest if one in found}
        order += [*shared, *greedy(known, broken), *(one for one in rest if one not in known)]
    return order


def greedy(found: Mapping[int, Trial], broken: Iterable[int]) -> list[int]:
    """Order attacks by new breaks per pass, given the images that are broken already.

    Among equals the first of ``found`` comes first, and so it does among those that break
    nothing more.
    """
    left, gone, order = list(found), set(broken), []
    while left:
        best = max(left, key=lambda one: _rate(found[one], gone))  # the first of equals
        left.remove(best)
        order.append(best)
        gone |= found[best].broken
    return order


def _rate(trial: Trial, gone: set[int]) -> float:
    return len(trial.broken - gone) / max(trial.passes, 1)


def summary(pairs: Sequence[Plugins], found: Mapping[int, Trial], plan: Plan) -> list[str]:
    """Say what each ladder's pilot took, which no row of the ladder counts."""
    ladders: dict[str, list[int]] = defaultdict(list)
    for number in found:
        ladders[ladder_of(pairs[number].asked())].append(number)
    said = []
    for ladder in ladders.values():
        request, threat = pairs[ladder[0]].request, pairs[ladder[0]].threat
        images = held_out(request.dataset)
        own = images == request.dataset
        said.append(
            f"the pilot of {request.defense} ({threat.norm} {format_eps(threat.eps)}, seed "
            f"{request.seed}) took {sum(found[one].passes for one in ladder):,} attack passes, "
            f"beside those of the rows, on the first {plan.tried_on} images of "
            f"{cell_name(images)}" + (", which are rated too: it holds none out" if own else "")
        )
    return said


def untried(pairs: Sequence[Plugins], found: Mapping[int, Trial]) -> list[Plugins]:
    """List the pairs that run last because the pilot has no number of them."""
    return [
        pair for number, pair in enumerate(pairs) if number not in found and not pair.impossible
    ]


def _supported(pairs: Iterable[Plugins]) -> list[Plugins]:
    return [pair for pair in pairs if not pair.impossible]

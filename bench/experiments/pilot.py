"""A ladder by yield: first what breaks most per pass, as a pilot on a few other images shows.

The pilot is a ladder by announced cost, so that expensive attacks are tried only on what cheap
ones leave. Its cells are cells like others: all processes share them, and the order follows
from what they stored.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from bench.core.threat import Access, format_eps
from bench.data.datasets import held_out
from bench.data.names import cell_name
from bench.experiments.attack_order import announced, cheap_first
from bench.experiments.plan import Plan
from bench.experiments.prepare import Plugins
from bench.results.cell import digest_of, ladder_of
from bench.results.cell_row import void_note
from bench.results.files import read_json
from bench.results.store import Store, read_rows


@dataclass(frozen=True)
class Trial:
    """What an attack did in a pilot: how many images it met and broke, in how many passes."""

    attacked: int
    broke: int
    passes: int


@dataclass(frozen=True)
class Pilot:
    """The pilot of a plan, itself a plan and its pairs; ``of``: which pair tries which one."""

    plan: Plan
    pairs: list[Plugins]
    of: Mapping[int, int]

    def trials(self, keys: Sequence[str | None], store: Store) -> dict[int, Trial]:
        """Read what the finished cells ``keys`` of the pilot found, by the pairs of the plan.

        An attack without a number, whose cell failed, was skipped or is void, is left out.
        """
        found = {number: _trial(key, store) for number, key in enumerate(keys)}
        known = {number: found[tried] for number, tried in self.of.items()}
        return {number: trial for number, trial in known.items() if trial}


def pilot_of(plan: Plan, pairs: Sequence[Plugins]) -> Pilot:
    """Return the pilot of a plan that was resolved to pairs: what is supported, cheap first."""
    tried: dict[str, Plugins] = {}
    names: dict[int, str] = {}
    for number, pair in enumerate(pairs):
        if not pair.impossible:
            images = held_out(pair.request.dataset)
            few = replace(pair.request, dataset=images, n=plan.tried_on)
            one = replace(pair, request=few)
            names[number] = digest_of(one.asked())
            tried.setdefault(names[number], one)
    ordered = cheap_first(tried.values())
    place = {digest_of(one.asked()): number for number, one in enumerate(ordered)}
    own = plan.model_copy(update={"ladder": True, "audit": False, "n": plan.tried_on})
    return Pilot(own, ordered, {number: place[name] for number, name in names.items()})


def _trial(key: str | None, store: Store) -> Trial | None:
    if key is None or not store.outcomes(key).is_file():
        return None
    rows = read_rows(store.outcomes(key))
    if void_note(rows):
        return None
    passes = read_json(store.cell(key) / "provenance.json")["attack passes"]
    return Trial(len(rows), int((rows["clean"] & ~rows["robust"]).sum()), sum(passes.values()))


def by_yield(pairs: Sequence[Plugins], found: Mapping[int, Trial]) -> list[int]:
    """Order the places of pairs, each ladder by itself, in which its attacks run.

    First those whose images all purifiers share, which see all images anyway. Then what broke
    most per pass; then what broke nothing, by passes per image; last what met no image, or has
    no number in the pilot. Equal ones go by announced cost, then as in the plan.
    """

    def key(number: int) -> tuple[bool, float, float, float]:
        pair, cost = pairs[number], announced(pairs[number])
        if pair.threat.access is Access.TRANSFER:
            return False, 0, 0, cost
        trial = found.get(number, Trial(0, 0, 0))
        each = trial.passes / trial.attacked if trial.attacked else math.inf
        return True, -trial.broke / max(trial.passes, 1), each, cost

    return [number for ladder in _ladders(pairs) for number in sorted(ladder, key=key)]


def summary(pairs: Sequence[Plugins], found: Mapping[int, Trial], plan: Plan) -> list[str]:
    """Say what the pilot of each ladder took, which no row of the ladder counts."""
    said = []
    for ladder in _ladders(pairs):
        request, threat = pairs[ladder[0]].request, pairs[ladder[0]].threat
        images = held_out(request.dataset)
        passes = sum(found[number].passes for number in ladder if number in found)
        said.append(
            f"the pilot of {request.defense} ({threat.norm} {format_eps(threat.eps)}, seed "
            f"{request.seed}) took {passes:,} attack passes, beside those of the rows, on the "
            f"first {plan.tried_on} images of {cell_name(images)}"
            + (", which are rated too: it holds none out" if images == request.dataset else "")
        )
    return said


def _ladders(pairs: Sequence[Plugins]) -> Iterable[list[int]]:
    """Group the places of pairs by ladder, in the order of the plan."""
    found: dict[str, list[int]] = defaultdict(list)
    for number, pair in enumerate(pairs):
        found[ladder_of(pair.asked())].append(number)
    return found.values()

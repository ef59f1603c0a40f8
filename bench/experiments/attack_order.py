"""The order of a ladder: cheap attacks first, expensive ones on the images that survive."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.core.threat import Access
from bench.data.datasets import dataset_info
from bench.experiments.plan import Plan
from bench.experiments.prepare import Plugins
from bench.results.cell import ladder_of


def cheap_first(pairs: Iterable[Plugins]) -> list[Plugins]:
    """Order each defense's attacks by cost, those first whose images all purifiers share."""
    groups: dict[str, list[Plugins]] = defaultdict(list)
    for plugins in pairs:
        groups[ladder_of(plugins.asked())].append(plugins)
    return [plugins for group in groups.values() for plugins in sorted(group, key=_cost)]


def _cost(plugins: Plugins) -> tuple[bool, float]:
    shared = plugins.threat.access is Access.TRANSFER
    return not shared, announced(plugins)


def announced(plugins: Plugins) -> float:
    """Bound an attack's passes per image; infinite, and so last, where it does not say."""
    cost = estimate(plugins).get("attack")
    return sum(cost.values()) if cost is not None else math.inf


def cheaper_attacks(
    plan: Plan, pairs: Sequence[Plugins], order: Sequence[int] | None = None
) -> list[list[int]]:
    """List, for each cell of a plan, the cells whose broken images it does not attack again.

    None without a ladder, and none for a transfer attack: all purifiers share its images, so
    it attacks all of them. ``order`` has the places of the pairs in the order of work, where it
    is not theirs.
    """
    cheaper: list[list[int]] = [[] for _ in pairs]
    if not plan.ladder:
        return cheaper
    before: dict[str, list[int]] = defaultdict(list)
    for number in range(len(pairs)) if order is None else order:
        ladder = before[ladder_of(pairs[number].asked())]
        if pairs[number].threat.access is not Access.TRANSFER:
            cheaper[number] = [*ladder]
        ladder.append(number)
    return cheaper


def estimate(plugins: Plugins) -> dict[str, dict[str, int]]:
    """Bound the passes of attack and judge per image; broken images may leave earlier.

    What an attack in a file costs is not known before it has run. A defense's ``passes`` are
    what one purification costs in passes of its networks; without them only the classifier is
    counted.
    """
    request, defense = plugins.request, plugins.defense
    access = plugins.threat.access
    stochastic = defense.stochastic and access is not Access.TRANSFER
    calls = plugins.attack.calls(
        stochastic=stochastic, classes=dataset_info(request.dataset).classes
    )
    cleaning = Counter(_passes(defense))
    step = {name: count // getattr(defense, "steps", 1) for name, count in cleaning.items()}
    draws = 2 * (request.draws if defense.stochastic else 1)
    judge = {"classifier forward": draws, **{name: draws * c for name, c in cleaning.items()}}
    if calls is None:
        return {"judge": judge}
    attack: Counter[str] = Counter()
    attack["classifier forward"] = calls.forward + calls.backward + calls.classify
    attack["classifier backward"] = calls.backward + calls.classify
    if access is not Access.TRANSFER:
        for name, count in cleaning.items():
            attack[name] += count * (calls.forward + calls.backward)
    if access is Access.FULL:
        # Replayed backwards: the energy again, its gradient, and the gradient of that.
        for name, count in cleaning.items():
            attack[name] += count * calls.backward * (2 if name.endswith("backward") else 1)
    for name, count in step.items():
        attack[name] += count * calls.steps
    return {"attack": {name: n for name, n in attack.items() if n}, "judge": judge}


def _passes(defense: Any) -> Mapping[str, int]:
    passes = getattr(defense, "passes", None)
    return passes() if callable(passes) else {}

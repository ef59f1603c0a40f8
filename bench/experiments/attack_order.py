"""The order of a ladder: a defense's cheap attacks before its dear ones."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.core.registry import parameters
from bench.core.threat import Access, format_eps
from bench.data.datasets import dataset_info
from bench.experiments.prepare import Plugins
from bench.results.cell import digest_of


def target_of(plugins: Plugins) -> str:
    """Hash what a ladder is about: a defense on its images, under a ball, with a seed."""
    request = plugins.request
    content = {
        "dataset": request.dataset,
        "n": request.n,
        "shard": request.shard,
        "classifier": request.classifier,
        "trained": parameters(plugins.classifier) if plugins.classifier else {},
        "defense": request.defense,
        "params": parameters(plugins.defense),
        "norm": plugins.threat.norm.value,
        "eps": format_eps(plugins.threat.eps),
        "seed": request.seed,
    }
    return digest_of(content)


def cheap_first(pairs: Iterable[Plugins]) -> list[Plugins]:
    """Order each defense's attacks by cost, those first whose images all purifiers share."""
    groups: dict[str, list[Plugins]] = defaultdict(list)
    for plugins in pairs:
        groups[target_of(plugins)].append(plugins)
    return [plugins for group in groups.values() for plugins in sorted(group, key=_cost)]


def _cost(plugins: Plugins) -> tuple[bool, int]:
    shared = plugins.threat.access is Access.TRANSFER
    return not shared, sum(estimate(plugins)["attack"].values())


def rungs_below(pairs: Sequence[Plugins]) -> list[list[int]]:
    """List, for each pair of a ladder, which pairs below break images that it leaves out.

    None for a transfer attack: all purifiers share its images, so it attacks all of them.
    """
    targets = [target_of(plugins) for plugins in pairs]
    return [
        []
        if plugins.threat.access is Access.TRANSFER
        else [below for below in range(number) if targets[below] == targets[number]]
        for number, plugins in enumerate(pairs)
    ]


def estimate(plugins: Plugins) -> dict[str, dict[str, int]]:
    """Bound the passes of attack and judge per image; broken images may leave earlier.

    A defense says by ``passes`` what one purification costs in passes of its networks;
    without it only the classifier is counted.
    """
    request, defense = plugins.request, plugins.defense
    access = plugins.threat.access
    stochastic = defense.stochastic and access is not Access.TRANSFER
    calls = plugins.attack.calls(
        stochastic=stochastic, classes=dataset_info(request.dataset).classes
    )
    cleaning = Counter(_passes(defense))
    step = {name: count // getattr(defense, "steps", 1) for name, count in cleaning.items()}
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
    draws = 2 * (request.draws if defense.stochastic else 1)
    judge = {"classifier forward": draws, **{name: draws * c for name, c in cleaning.items()}}
    return {"attack": {name: n for name, n in attack.items() if n}, "judge": judge}


def _passes(defense: Any) -> Mapping[str, int]:
    passes = getattr(defense, "passes", None)
    return passes() if callable(passes) else {}

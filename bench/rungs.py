"""The order of a ladder: a defense's cheap attacks before its dear ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from bench.cell import digest_of
from bench.cost import estimate
from bench.prepare import Plugins
from bench.registry import parameters
from bench.threat import Access, format_eps


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

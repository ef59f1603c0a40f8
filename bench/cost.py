"""What a cell costs before it runs: an upper bound in network passes per image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from bench.datasets import dataset_info
from bench.prepare import Plugins
from bench.threat import Access


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

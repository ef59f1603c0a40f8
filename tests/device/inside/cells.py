"""Every attack at every access on every defense: as on the CPU, and without a wait a step."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.core.access import unsupported, view_of
from bench.core.rng import Rng
from bench.core.threat import Access, Norm, ThreatModel
from bench.evaluation.judge import judge
from bench.plugins.catalogue import catalogue, plugin
from bench_attacks._votes import rounds
from tests.device.ledger import LEDGER
from tests.device.simulated import DEVICE
from tests.device.subjects import DEFENSES, Pair, held, pairs

# What an attack repeats, and parameters that make it short.
STEPS = {"adaptive": "steps", "apgd": "steps", "apgd_t": "steps", "bpda_eot": "steps",
         "noise": "tries", "pgd": "steps", "rays": "queries", "square": "queries"}  # fmt: skip
EOT, TARGETS = 2, 2
FEW, MORE = 1, 2  # below the tenth step, at which attacks look which images are done
LIBRARY = "autoattack"  # waits as it likes
# Plain, random, a walk with steps, and without a gradient: these meet every attack. What is a
# purifier's own is seen by a gradient and by queries.
EVERY, FEWER = ("none", "gaussian", "adv_ebm", "jpeg"), ("pgd", "square")
ON_THE_HOST = ("bench_defenses/jpeg.py", "bench_defenses/nl_means.py")  # are not torch's work


def cells() -> Iterator[tuple[str, str, Access, Norm]]:
    """Name defense, attack, access and norm; transfer attacks do not see the purifier.

    Of defenses with the same purifier, which differ in their training, one meets more than PGD.
    """
    met: set[type] = set()
    for name in DEFENSES:
        purifier = pairs(name)[0].defense.purifier
        differentiable, known = purifier.differentiable, type(purifier) in met
        met.add(type(purifier))
        every = sorted(set(catalogue("attacks")) - {LIBRARY}) if name in EVERY else FEWER
        for attack in ("pgd",) if known else every:
            sort = plugin("attacks", attack)
            for access in sort.accesses:
                if access is Access.TRANSFER and name != "none":
                    continue
                if unsupported(differentiable=differentiable, access=access):
                    continue
                norms = sort.norms if name in ("none", "gaussian") else sort.norms[:1]
                yield from ((name, attack, access, norm) for norm in norms)


def made(attack: str, repeats: int, *, targets: bool) -> Any:
    """Build an attack of so many steps, with targets where it has any."""
    sort = plugin("attacks", attack)
    short = {"eot": EOT, "targets": TARGETS} if targets or attack == "apgd_t" else {"eot": EOT}
    known = {field.name for field in dataclasses.fields(sort)}
    short = {name: value for name, value in short.items() if name in known}
    return sort(**{STEPS[attack]: repeats, **short})


def proposed(pair: Pair, attack: Any, threat: ThreatModel) -> Tensor:
    """Attack the images of a pair as a cell does."""
    images = pair.images
    rng = Rng.seeded(0, images.indices).fork("attack")
    view = view_of(pair.defense, threat.access)
    x_adv: Tensor = attack(view, images.x.clone(), images.y.clone(), threat=threat, rng=rng)
    return x_adv


def verdicts(pair: Pair, x_adv: Tensor, threat: ThreatModel) -> dict[str, Tensor]:
    """Judge proposals by a few votes, and read what is stored."""
    images = pair.images
    rng = Rng.seeded(0, images.indices).fork("judge")
    found = judge(pair.defense, images.x, images.y, x_adv, threat=threat, draws=2, rng=rng)
    return {key: held(value) for key, value in vars(found).items()}


@pytest.mark.parametrize(("name", "attack", "access", "norm"), list(cells()), ids=str)
def test_a_cell_is_the_cpus_and_waits_for_no_step(
    name: str, attack: str, access: Access, norm: Norm
) -> None:
    here, there = pairs(name)
    threat = ThreatModel(norm, Fraction(1, 5) if norm is Norm.LINF else Fraction(1), access)
    targets = name == "none"  # where they cost least
    expected = proposed(here, made(attack, MORE, targets=targets), threat)
    waits = []
    for repeats in (FEW, MORE):
        LEDGER.reset()
        found = proposed(there, made(attack, repeats, targets=targets), threat)
        asked = {k: n for k, n in LEDGER.waits.items() if not any(f in k for f in ON_THE_HOST)}
        waits.append(asked)
        assert not LEDGER.drawn
    assert found.device == DEVICE
    assert torch.equal(held(found), expected)
    totals = [sum(counts.values()) for counts in waits]
    votes = len(rounds(EOT)) - 1 if attack == "rays" else 0
    more = votes * (MORE - FEW) if there.defense.stochastic else 0
    assert totals[1] <= totals[0] + more, waits
    if attack != "pgd":  # the images are the same: what is judged of one attack is of all
        return
    ours, cpus = verdicts(there, found, threat), verdicts(here, expected, threat)
    assert ours.keys() == cpus.keys()
    for key, value in cpus.items():
        assert torch.equal(ours[key], value), key


@pytest.mark.parametrize(
    "name", [name for name in DEFENSES if hasattr(pairs(name)[0].defense.purifier, "coarser")]
)
def test_a_shorter_process_is_the_cpus(name: str) -> None:
    here, there = (
        view_of(pair.defense, Access.FULL)
        .surrogate(2)
        .defense.purify(pair.images.x, rng=Rng.seeded(0, pair.images.indices).repeat(2))
        for pair in pairs(name)
    )
    assert there.device == DEVICE
    assert torch.equal(held(there), held(here))

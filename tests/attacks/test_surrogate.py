"""Attacks through a cheaper process than the one that is attacked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import pytest
import torch
from attack_toys import (
    Identity,
    Negative,
    Pull,
    ball,
    firm_problem,
    misses,
    small_problem,
    streams,
)
from torch import Tensor, nn

from bench.api import Access, Defense, Norm, PluginError, Rng, View, size
from bench.core.access import view_of
from bench.core.passes import count_passes
from bench.evaluation.judge import judge
from bench_attacks.apgd import Apgd, checkpoints
from bench_attacks.pgd import Pgd
from bench_defenses.energies.langevin import LangevinPurifier

NORMS = list(Norm)


class Bowl(nn.Module):
    """A smooth energy: the distance from gray, and its square."""

    def forward(self, x: Tensor) -> Tensor:
        distance = ((x - 0.5) ** 2).flatten(1).sum(1)
        return distance + distance**2


def langevin(noise: float = 0.02, steps: int = 7) -> LangevinPurifier:
    return LangevinPurifier(Bowl(), steps=steps, step_size=0.05, noise=noise)


@dataclass(frozen=True)
class Watched:
    """A view that says when it, rather than its surrogate, is asked."""

    inner: View
    asked: list[int] = field(default_factory=list)
    cheap: list[int] = field(default_factory=list)
    stochastic: ClassVar[bool] = True
    access: ClassVar[Access] = Access.FULL

    def __call__(self, x: Tensor, *, rng: Rng) -> Tensor:
        self.asked.append(len(rng))
        assert not x.requires_grad
        return self.inner(x, rng=rng)

    def surrogate(self, factor: int) -> View:
        coarse = self.inner.surrogate(factor)

        def view(x: Tensor, *, rng: Rng) -> Tensor:
            self.cheap.append(len(rng))
            return coarse(x, rng=rng)

        return view


@pytest.mark.parametrize("norm", NORMS)
def test_the_surrogate_ascends_and_the_real_process_votes(norm):
    defense, x, y = firm_problem(langevin(), 6)
    view, threat = Watched(view_of(defense, Access.FULL)), ball(norm, 0.002, Access.FULL)
    attack = Apgd(steps=20, eot=3, surrogate=3)
    with count_passes(defense.networks()) as passes:
        x_adv = attack(view, x, y, threat=threat, rng=streams(6))
    votes = 2 + len(checkpoints(20))
    assert view.asked == [6 * 3] * votes
    assert view.cheap == [6 * 3] * 21
    # Backwards, every step replays its energy: 2 passes a step, and 7 steps against 3.
    # The draws of an image share the first step.
    assert passes["energy forward"] == 18 * (6 * votes + 2 * 41) + 6 * (votes + 41)
    assert float(size(x_adv - x, norm).max()) <= 0.002 + 1e-9
    promised = attack.calls(stochastic=True, classes=5)
    assert (promised.forward, promised.backward) == (3 * (votes + 1), 3 * 20)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("access", [Access.FULL, Access.BPDA])
def test_through_the_surrogate_legal_and_row_by_row(norm, access):
    defense, x, y = small_problem(langevin())
    view, threat, rng = view_of(defense, access), ball(norm, 0.1, access), streams(8)
    attack = Apgd(steps=24, eot=2, surrogate=2, restarts=2)
    start = x + 0.04
    whole = attack(view, x, y, threat=threat, rng=rng, start=start)
    verdict = judge(defense, x, y, whole, threat=threat, draws=20, rng=streams(8, 9))
    assert bool(verdict.legal.all())
    assert int(verdict.robust.sum()) < int(verdict.clean.sum())
    for i in range(8):
        row = slice(i, i + 1)
        alone = attack(view, x[row], y[row], threat=threat, rng=rng[row], start=start[row])
        torch.testing.assert_close(alone, whole[row], rtol=0, atol=1e-12)


def test_a_vote_of_the_real_process_overrules_the_surrogate():
    defense, x, y = small_problem(Identity())

    class Fooled(Identity):
        """Its cheaper process is another one, which mistakes every image at once."""

        def coarser(self, factor: int) -> Identity:
            return Negative()

    liar = Defense(Fooled(), defense.classifier)
    view, threat = view_of(liar, Access.FULL), ball(Norm.LINF, 0.06, Access.FULL)
    wrong = Pgd(steps=50)(view, x, y, threat=threat, rng=streams(8))
    fallen = misses(liar, wrong, y)
    assert bool(fallen.any())
    start_kept = Apgd(steps=20, surrogate=2)(
        view, x, y, threat=threat, rng=streams(8), start=wrong
    )
    assert bool(misses(liar, start_kept, y)[fallen].all())


def test_where_no_surrogate_is():
    attack, threat = Apgd(steps=1, surrogate=2), ball(Norm.LINF, 0.1, Access.BPDA)
    defense, x, y = small_problem(Pull())
    for access in (Access.BPDA, Access.FULL):
        with pytest.raises(PluginError, match=r"no cheaper process: Pull .* attack\.surrogate"):
            attack(view_of(defense, access), x, y, threat=threat, rng=streams(8))
    with pytest.raises(PluginError, match="which transfer access hides"):
        attack(view_of(defense, Access.TRANSFER), x, y, threat=threat, rng=streams(8))


def test_the_surrogate_shares_networks_access_and_seed():
    defense = small_problem(langevin())[0]
    view = view_of(defense, Access.BPDA).surrogate(2)
    assert view.access is Access.BPDA
    assert view.defense.classifier is defense.classifier
    assert view.defense.purifier.energy is defense.purifier.energy
    assert (defense.purifier.steps, view.defense.purifier.steps) == (7, 4)

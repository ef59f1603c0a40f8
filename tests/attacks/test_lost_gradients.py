"""Gradients that are NaN or infinite at many pixels are a flag of the cell, for any attack."""

from __future__ import annotations

import pytest
from attack_toys import ATTACKS, Identity, ball, run, small_problem, streams
from torch import nn

from bench.api import Access, Norm
from bench.core.access import view_of
from bench.core.defense import Defense

GRADIENTS = {
    "adaptive": {"steps": 2, "through": "defense"},
    "apgd": {"steps": 2},
    "bpda_eot": {"steps": 2},
    "pgd": {"steps": 2},
}


class Root(Identity):
    """A purifier whose slope is infinite where a pixel is black."""

    def purify(self, x, *, rng):
        return x.pow(0.5)


class Bent(nn.Module):
    """A classifier of such a slope."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x.pow(0.5))


def flag_of(name, params, purifier, classifier, access, x, y):
    view = view_of(Defense(purifier, classifier), access)
    run(ATTACKS[name](**params), view, x, y, ball(Norm.LINF, 0.05, access), streams(len(x)))
    return view.gradients.flag()


@pytest.mark.parametrize("name", sorted(GRADIENTS))
def test_every_gradient_attack_has_its_gradients_counted(name):
    defense, x, y = small_problem(Identity(), images=12, side=6)
    x = (x - 0.3).clamp(0, 1)
    black, params = float((x == 0).double().mean()), GRADIENTS[name]
    assert black > 0.2
    attack, network = ATTACKS[name], defense.classifier
    if Access.FULL in attack.accesses:
        found = flag_of(name, params, Root(), network, Access.FULL, x, y)
        assert "NaN or infinite at" in found
    found = flag_of(name, params, Identity(), Bent(network), Access.BPDA, x, y)
    assert "NaN or infinite at" in found
    assert flag_of(name, params, Identity(), network, attack.accesses[0], x, y) is None


def test_a_gradient_of_the_bare_classifier_counts_too():
    defense, x, y = small_problem(Identity(), images=12, side=6)
    x, bent = (x - 0.3).clamp(0, 1), Bent(defense.classifier)
    found = flag_of("adaptive", {"steps": 1}, Identity(), bent, Access.BPDA, x, y)
    share = float((x == 0).double().mean())
    assert f"at {share:.0%} of the pixels" in found
    assert "NaN" in flag_of("pgd", {"steps": 1}, Identity(), bent, Access.TRANSFER, x, y)

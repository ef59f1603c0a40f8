"""Each check of gradients has a defense that passes and one that fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bench.audit.findings import State
from bench.audit.gradients import gradient_exists
from bench.audit.subject import Subject
from bench.rng import Rng


class Detached:
    """Claims a gradient and has none."""

    stochastic = False
    differentiable = True

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        return x.detach() * 1.0


class Steps(Detached):
    """A staircase that claims a gradient: it is zero."""

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        return (x * 7).round() / 7


class Constant(nn.Module):
    """A classifier that no image moves."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), 10) + 0 * x.flatten(1).sum(1, keepdim=True)


def test_gradient_exists(
    make_subject: Callable[..., Subject], langevin: Callable[..., Any]
) -> None:
    assert gradient_exists(make_subject(langevin())).state is State.PASS

    detached = gradient_exists(make_subject(Detached()))
    assert detached.state is State.FAIL
    assert "no gradient leaves the purifier" in detached.reason

    steps = gradient_exists(make_subject(Steps()))
    assert (steps.state, steps.values["component"]) == (State.FAIL, "purifier")

    constant = gradient_exists(make_subject(None, Constant()))
    assert (constant.state, constant.values["component"]) == (State.FAIL, "classifier")

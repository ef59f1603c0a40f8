"""Noise that goes by the block is no cheat; a cheat that hides behind such noise is one."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.audit import votes
from bench.audit.findings import State
from bench.audit.gradients import gradient_is_right
from bench.audit.subject import Subject
from bench.audit.votes import verdicts_repeat
from bench.plugins.as_defense import as_defense
from bench.plugins.thing import Thing

MakeSubject = Callable[..., Subject]


@pytest.fixture(autouse=True)
def _few_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(votes, "_CALLS", 50)


def by_itself(x: Tensor) -> Tensor:
    return x + 0.3 * torch.randn_like(x)


def with_generator(x: Tensor, *, generator: torch.Generator) -> Tensor:
    return x + 0.3 * torch.randn(x.shape, generator=generator, dtype=x.dtype)


def curved(x: Tensor) -> Tensor:
    """Multiplicative noise: its gradient is not that of BPDA."""
    return x * (1 + 0.1 * torch.randn_like(x)) ** 2


def wrong(x: Tensor) -> Tensor:
    noisy = x + 0.1 * torch.randn_like(x)
    return 0.5 * noisy + (0.5 * noisy).detach()


def hides(x: Tensor) -> Tensor:
    """Cleans an image that comes alone or beside others in another way."""
    noisy = x + 0.05 * torch.randn_like(x)
    return noisy if len(x) > 16 else torch.zeros_like(x)


def subject(make: MakeSubject, function: Any, **options: Any) -> Subject:
    plugin = as_defense(Thing(function, f"mine.py:{function.__name__}"))()
    return make(plugin.purifier(shape=(1, 8, 8)), **options)


@pytest.mark.parametrize("function", [by_itself, with_generator])
def test_another_batch_may_move_what_other_noise_moves(
    make_subject: MakeSubject, function: Any
) -> None:
    found = verdicts_repeat(subject(make_subject, function))
    assert found.values["company"] > 0.005, "the check has something to excuse"
    assert found.state is State.PASS, found.reason


def test_a_batch_that_moves_more_is_caught(make_subject: MakeSubject) -> None:
    found = verdicts_repeat(subject(make_subject, hides, eps=Fraction(1, 100)))
    assert found.state is State.FAIL
    assert "depends on the batch" in found.reason


def test_the_gradient_is_compared_under_the_same_noise(make_subject: MakeSubject) -> None:
    assert gradient_is_right(subject(make_subject, curved)).state is State.PASS
    assert gradient_is_right(subject(make_subject, wrong)).state is State.FAIL

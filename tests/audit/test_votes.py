"""Cheating defenses give themselves away, honest ones do not; resubmission and 8-bit images."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.audit import votes
from bench.audit.findings import State
from bench.audit.subject import Subject
from bench.audit.votes import eight_bits_suffice, resubmission, verdicts_repeat
from bench.core.rng import Rng

MakeSubject = Callable[..., Subject]


@pytest.fixture(autouse=True)
def _few_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(votes, "_CALLS", 50)


class Noisy:
    stochastic = True
    differentiable = True

    def __init__(self, sigma: float = 0.1) -> None:
        self.sigma = sigma

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        return x + self.sigma * rng.normal_like(x)


class Global(Noisy):
    """Draws from the global generator, which whoever seeds it can steer."""

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        return x + self.sigma * torch.randn_like(x)


class Counting(Noisy):
    """Behaves while it is attacked, and hides the image once it has been called often."""

    def __init__(self, patience: int) -> None:
        super().__init__(sigma=0.3)
        self.patience = patience
        self.calls = 0

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        self.calls += 1
        if self.calls > self.patience:
            return torch.zeros_like(x)
        return super().purify(x, rng=rng)


class ByBatch(Noisy):
    """Cleans an image by its place in the batch."""

    stochastic = False

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        keep = torch.arange(len(x)) < 16
        return torch.where(keep.reshape(-1, 1, 1, 1), x, torch.zeros_like(x))


def test_verdicts_repeat(make_subject: MakeSubject, langevin: Callable[..., Any]) -> None:
    assert verdicts_repeat(make_subject(langevin())).state is State.PASS
    assert verdicts_repeat(make_subject(None)).state is State.PASS


def test_noise_from_the_global_generator_is_caught(make_subject: MakeSubject) -> None:
    found = verdicts_repeat(make_subject(Global(0.3)))
    assert found.state is State.FAIL
    assert "the number of its calls or the global generator" in found.reason


def test_a_defense_that_detects_the_judge_by_its_calls_is_caught(
    make_subject: MakeSubject,
) -> None:
    attacked_for = 6  # calls of the main attack: the judge comes after
    found = verdicts_repeat(make_subject(Counting(attacked_for)))
    assert found.state is State.FAIL
    assert found.values["drifting"] > 0


def test_a_verdict_that_depends_on_the_batch_is_caught(make_subject: MakeSubject) -> None:
    found = verdicts_repeat(make_subject(ByBatch(), eps=Fraction(1, 100)))
    assert found.state is State.FAIL
    assert "batch" in found.reason


class ByPlace(Noisy):
    """Draws noise for the place in the batch and not for the image."""

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return x + 0.3 * torch.randn(x.shape, generator=generator)


def test_noise_of_the_place_in_the_batch_is_caught(make_subject: MakeSubject) -> None:
    found = verdicts_repeat(make_subject(ByPlace()))
    assert found.state is State.FAIL
    assert "place" in found.reason


def test_the_long_run_of_a_long_chain_has_fewer_calls(
    make_subject: MakeSubject, langevin: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert verdicts_repeat(make_subject(None)).values["long run"] == 50
    found = verdicts_repeat(make_subject(langevin()))
    assert found.values["long run"] == 50
    monkeypatch.setattr(votes, "_PASSES", 40)
    found = verdicts_repeat(make_subject(langevin()))
    assert found.state is State.PASS
    assert 2 <= found.values["long run"] <= 20


def test_resubmission_counts_the_noise(make_subject: MakeSubject) -> None:
    calm = resubmission(make_subject(Noisy(0.01), eps=Fraction(1, 1000)))
    assert calm.state is State.PASS
    assert calm.values["attacked vote"] == calm.values["clean vote"]

    # Clean images stand far from the border and attacked ones on it.
    shaky = resubmission(make_subject(Noisy(0.08), eps=Fraction(5, 100), draws=20))
    assert shaky.state is State.FAIL
    assert shaky.values["attacked worst"] < shaky.values["attacked vote"]

    few = resubmission(make_subject(Noisy(0.01), eps=Fraction(1, 1000), draws=9))
    assert few.state is State.NOT_APPLICABLE
    assert "--draws=10" in few.reason

    fixed = resubmission(make_subject(None))
    assert fixed.state is State.NOT_APPLICABLE
    assert "deterministic" in fixed.reason


def test_eight_bits(make_subject: MakeSubject, classifier: nn.Module) -> None:
    assert eight_bits_suffice(make_subject(None)).state is State.PASS
    # A ball thinner than a level of 8 bits: what breaks inside it cannot be stored.
    edge = OnTheEdge(classifier)
    found = eight_bits_suffice(make_subject(None, edge, eps=Fraction(1, 1000)))
    assert found.state is State.FAIL
    assert found.values["points"] > 50


class OnTheEdge(nn.Module):
    """Right at the clean image's own levels, wrong a thousandth beside them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        near = (x * 16).round() / 16
        logits = self.network(near)
        off = (x - near).abs().flatten(1).amax(1, keepdim=True)
        others = torch.roll(logits, 1, dims=1)
        # Between 0.0005 and 0.0015: below the 8-bit level, 0.0039 apart.
        hit = ((off - 0.001).abs() < 0.0005).to(x.dtype)
        smooth = 1e-3 * (x - near).flatten(1).sum(1, keepdim=True)
        mixed: Tensor = logits * (1 - hit) + others * hit + smooth * others
        return mixed

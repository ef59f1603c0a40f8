"""Each check of gradients has a defense that passes and one that fails."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.audit.findings import State
from bench.audit.gradients import (
    bpda_is_not_full,
    gradient_exists,
    gradient_is_right,
    relative_error,
)
from bench.audit.subject import Subject
from bench.core.networks import frozen
from bench.core.rng import Rng
from bench_defenses.gaussian import Gaussian
from bench_defenses.jpeg import Jpeg
from bench_defenses.median import Median


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


class Straight(Detached):
    """The staircase with the identity's gradient, which it claims to be its own."""

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        return x + ((x * 7).round() / 7 - x).detach()


class Pull(Detached):
    """Moves every pixel towards gray, seen by autograd or not."""

    def __init__(self, *, seen: bool) -> None:
        self.seen = seen

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        pull = 0.3 * (0.5 - x)
        return x + (pull if self.seen else pull.detach())


class Clipped(Detached):
    """Additive noise, clipped to the box."""

    stochastic = True

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        return (x + 0.2 * rng.normal_like(x)).clamp(0, 1)


class Blend(Detached):
    """A plain object with a network and tensors, and with a lock that cannot be copied."""

    def __init__(self, *, lock: bool = False, single: bool = False) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.network = frozen(nn.Conv2d(1, 1, 3, padding=1))  # a copy is not possible
        self.share = torch.full((1, 1, 3, 3), 0.1)
        self.order = torch.arange(8)
        self.single = single
        self.lock = threading.Lock() if lock else None

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        if self.single:  # computes in single precision whatever it is given
            y = x.float()
            return (y - 0.3 * (y * 3).sin()).to(x.dtype)
        drift = nn.functional.conv2d(self.network(x).tanh(), self.share, padding=1)
        return x + drift[..., self.order]


class Sealed(nn.Module):
    """A classifier that lets no gradient through, or none of some of the images."""

    def __init__(self, network: nn.Module, share: float = 1.0) -> None:
        super().__init__()
        self.network, self.share = network, share

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        mean = x.detach().flatten(1).mean(1)
        sealed = (mean <= mean.quantile(self.share))[:, None]
        return logits.detach() if self.share == 1 else logits.where(~sealed, logits.detach())


class Crooked(nn.Module):
    """A classifier whose gradient is that of the mirrored image."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        mirrored = self.network(x.flip(3))
        logits: Tensor = self.network(x).detach() + mirrored - mirrored.detach()
        return logits


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


def test_the_purifier_is_not_blamed_for_the_classifier(
    make_subject: Callable[..., Subject], langevin: Callable[..., Any], classifier: nn.Module
) -> None:
    sealed = gradient_exists(make_subject(langevin(), Sealed(classifier)))
    assert (sealed.state, sealed.values["component"]) == (State.FAIL, "classifier")
    assert sealed.reason.startswith("no gradient leaves the classifier:")

    # A few images have none in the classifier, and none has one through the purifier.
    both = gradient_exists(make_subject(Steps(), Sealed(classifier, 0.1)))
    assert (both.state, both.values["component"]) == (State.FAIL, "purifier")

    for purifier in (None, langevin(), Gaussian()):
        crooked = gradient_is_right(make_subject(purifier, Crooked(classifier)))
        assert crooked.state is State.FAIL
        assert crooked.reason.startswith("the classifier's gradient is not that")
    straight = gradient_is_right(make_subject(Straight()))
    assert straight.reason.startswith("the purifier's gradient is not that")


def energy(bend: nn.Module) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), bend, nn.Flatten(), nn.Linear(256, 8), bend,
            nn.Linear(8, 1),
        )  # fmt: skip


def test_bpda_is_not_full(
    make_subject: Callable[..., Subject], langevin: Callable[..., Any]
) -> None:
    smooth = bpda_is_not_full(make_subject(langevin(energy(nn.SiLU()))))
    assert smooth.state is State.PASS
    assert smooth.values["difference"] > 1e-3

    # The clamp of its steps sets pixels of the full gradient to 0, and is not a difference.
    bent = bpda_is_not_full(make_subject(langevin(energy(nn.LeakyReLU(0.2)))))
    assert (bent.state, bent.values["difference"]) == (State.FAIL, 0)
    assert bent.values["held"] > 0.1
    assert "piecewise linear or detached" in bent.reason

    assert bpda_is_not_full(make_subject(Pull(seen=False))).state is State.FAIL
    assert bpda_is_not_full(make_subject(Pull(seen=True))).state is State.PASS


@pytest.mark.parametrize("purifier", [Gaussian(sigma=0.2), Clipped()])
def test_additive_noise_has_the_gradient_of_bpda_by_right(
    make_subject: Callable[..., Subject], purifier: Any
) -> None:
    noisy = bpda_is_not_full(make_subject(purifier))
    assert (noisy.state, noisy.values["difference"]) == (State.PASS, 0)
    assert "both gradients are right" in noisy.reason


def test_gradient_is_right(
    make_subject: Callable[..., Subject], langevin: Callable[..., Any]
) -> None:
    for purifier in (None, langevin(), Gaussian(), Median(), Pull(seen=True), Clipped()):
        found = gradient_is_right(make_subject(purifier))
        assert found.state is State.PASS, purifier
        assert found.values["error"] < 1e-4

    straight = gradient_is_right(make_subject(Straight()))
    assert straight.state is State.FAIL
    assert straight.values["error"] > 0.3
    assert "declare it not differentiable" in straight.reason

    # Only a share of the slope is hidden: d(x + pull)/dx is .7, not 1.
    hidden = gradient_is_right(make_subject(Pull(seen=False)))
    assert hidden.state is State.FAIL
    assert hidden.values["error"] == pytest.approx(0.3, abs=0.01)


def test_gradient_of_plain_objects(make_subject: Callable[..., Subject]) -> None:
    plain = Blend()
    assert gradient_is_right(make_subject(plain)).values["error"] < 1e-4
    assert plain.share.dtype == next(plain.network.parameters()).dtype == torch.float32

    single = gradient_is_right(make_subject(Blend(single=True)))
    assert single.state is State.PASS
    assert len(single.values["errors"]) > 1  # the finest differences are lost in rounding

    locked = gradient_is_right(make_subject(Blend(lock=True)))
    assert locked.state is State.NOT_APPLICABLE
    assert "does not run in float64 (the purifier Blend failed: RuntimeErr" in locked.reason
    assert gradient_is_right(make_subject(Blend(lock=True, single=True))).state is State.PASS


@pytest.mark.parametrize("check", [bpda_is_not_full, gradient_is_right])
def test_without_a_full_gradient_there_is_none_to_check(
    make_subject: Callable[..., Subject], check: Callable[[Subject], Any]
) -> None:
    for purifier, why in (
        (Jpeg(), "no true gradient"),
        (Detached(), "does not exist: see C2"),
        (Steps(), "0 or not finite: see C2"),
    ):
        found = check(make_subject(purifier))
        assert found.state is State.NOT_APPLICABLE, why
        assert why in found.reason


def test_bpda_of_no_purifier(make_subject: Callable[..., Subject]) -> None:
    found = bpda_is_not_full(make_subject())
    assert found.state is State.NOT_APPLICABLE
    assert "as it is" in found.reason


def test_relative_error() -> None:
    a, b = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 0.0])
    assert relative_error(a, b) == relative_error(b, a) == 1
    assert relative_error(a, -a) == 2
    assert relative_error(a, 0.5 * a) == 0.5
    assert relative_error(b, b) is None
    assert relative_error(a / b, b) is None

"""Each check of the loss has a defense that passes and one that fails."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import pytest
from torch import Tensor, nn

from bench.audit.findings import State
from bench.audit.gradients import nudged
from bench.audit.loss_surface import eot_is_stable, loss_is_not_saturated, surface_is_smooth
from bench.audit.subject import Subject
from bench.core.geometry import size
from bench.core.rng import Rng
from bench.core.threat import Norm
from bench_defenses.gaussian import Gaussian
from bench_defenses.median import Median


class Swamped:
    """Hands images on with a gradient in which noise of a scale drowns the signal."""

    stochastic = True
    differentiable = True

    def __init__(self, noise: float) -> None:
        self.noise = noise

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        factor = 1 + self.noise * rng.normal_like(x)
        return x + (factor - 1) * (x - x.detach())


class Jagged:
    """Adds a wave far finer than any step: the next point has another loss."""

    stochastic = False
    differentiable = True

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        phase = (1e4 * x.flatten(1)).sum(1)[:, None, None, None]
        return x + phase.sin() * (0.5 - x)


class OnlyNoise:
    """Throws the image away."""

    stochastic = True
    differentiable = True

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        return 0.5 + 0.5 * rng.normal_like(x) + 0 * x


class Scaled(nn.Module):
    """A classifier whose logits are too large for a float32 cross-entropy."""

    def __init__(self, network: nn.Module, scale: float) -> None:
        super().__init__()
        self.network, self.scale = network, scale

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x) * self.scale
        return logits


class Zero(nn.Module):
    """A classifier that is sure of everything: its gradient exists and is 0."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = 0 * x.flatten(1)[:, :10]
        return logits


def test_eot_is_stable(make_subject: Callable[..., Subject]) -> None:
    subject = make_subject(Gaussian(sigma=0.25))
    found = eot_is_stable(subject)
    assert (found.state, found.values["eot"]) == (State.PASS, 3)
    assert subject.settings["eot"] == 3


def test_more_draws_are_asked_for_and_used(make_subject: Callable[..., Subject]) -> None:
    # Each pixel's gradient is multiplied by 1 + 4 normal: the cosine of two averages over d
    # draws is near 1 / (1 + 16 / d), .43 at 12 and .6 at 24.
    subject = make_subject(Swamped(4.0))
    found = eot_is_stable(subject)
    assert (found.state, found.values["eot"]) == (State.WARN, 24)
    assert list(found.values["cosines"]) == [3, 6, 12, 24]
    for draws, cosine in found.values["cosines"].items():
        assert cosine == pytest.approx(1 / (1 + 16 / draws), abs=0.08)
    assert "attack.eot=24" in found.reason
    assert subject.settings["eot"] == 24
    assert eot_is_stable(subject).state is State.PASS


def test_draws_end_at_a_cap(make_subject: Callable[..., Subject]) -> None:
    subject = make_subject(Swamped(30.0))
    found = eot_is_stable(subject)
    assert (found.state, found.values["eot"]) == (State.FAIL, None)
    assert max(found.values["cosines"]) == 64
    assert "averages of 64 gradients" in found.reason
    assert subject.settings["eot"] == 3  # no number of draws that a later check could pay

    patient = make_subject(Swamped(30.0), settings={"eot": 100})
    assert list(eot_is_stable(patient).values["cosines"]) == [100]


def test_draws_of_what_has_none(
    make_subject: Callable[..., Subject], classifier: nn.Module
) -> None:
    settled = eot_is_stable(make_subject(Median()))
    assert settled.state is State.NOT_APPLICABLE
    assert "deterministic" in settled.reason

    class Decided(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return classifier(x).detach().round()

    blind = eot_is_stable(make_subject(Gaussian(), Decided()))
    assert blind.state is State.NOT_APPLICABLE
    assert "no gradient" in blind.reason

    class Lost(Gaussian):
        def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
            return super().purify(x, rng=rng).detach()

    assert eot_is_stable(make_subject(Lost())).state is State.PASS  # with BPDA

    flat = eot_is_stable(make_subject(Gaussian(sigma=0.01), Zero()))
    assert flat.state is State.NOT_APPLICABLE
    assert "see C2 and C21" in flat.reason


def test_surface_is_smooth(make_subject: Callable[..., Subject]) -> None:
    for purifier in (None, Gaussian(sigma=0.25)):
        found = surface_is_smooth(make_subject(purifier))
        assert found.state is State.PASS
        assert 0 < found.values["change"] < 0.5

    rugged = surface_is_smooth(make_subject(Jagged()))
    assert rugged.state is State.FAIL
    assert rugged.values["change"] > 1
    assert "rugged" in rugged.reason
    assert surface_is_smooth(make_subject(Jagged(), norm=Norm.L2, eps=Fraction(1))).state is (
        State.FAIL
    )


def test_noise_is_no_ruggedness(
    make_subject: Callable[..., Subject], classifier: nn.Module
) -> None:
    assert surface_is_smooth(make_subject(OnlyNoise())).values["change"] == 0
    # Losses of exactly 0 divide nothing.
    assert surface_is_smooth(make_subject(None, Scaled(classifier, 1e4))).values["change"] < 1e9


@pytest.mark.parametrize("norm", list(Norm))
def test_nudged(make_subject: Callable[..., Subject], norm: Norm) -> None:
    subject = make_subject()
    x = 0.25 + 0.5 * subject.images.x
    moved = nudged(x, norm, 0.1, rng=subject.rng)
    assert size(moved - x, norm).tolist() == pytest.approx([0.1] * len(x), abs=1e-6)
    clipped = nudged(subject.images.x, norm, 0.9, rng=subject.rng)
    assert (clipped.amin(), clipped.amax()) == (0, 1)


def test_loss_is_not_saturated(
    make_subject: Callable[..., Subject], classifier: nn.Module
) -> None:
    gentle = make_subject(None, Scaled(classifier, 0.4))  # sure, and short of 1
    found = loss_is_not_saturated(gentle)
    assert (found.state, found.values["saturated"]) == (State.PASS, 0)
    assert gentle.settings.get("loss", "ce") == "ce"

    subject = make_subject(None, Scaled(classifier, 1e4))
    blocked = subject.quick().accuracy
    found = loss_is_not_saturated(subject)
    assert found.state is State.FAIL
    clean = subject.defense.classify(subject.images.x).argmax(1) == subject.images.y
    assert found.values["saturated"] == pytest.approx(clean.double().mean().item(), abs=0.05)
    assert "attacks with the margin" in found.reason
    assert subject.quick().accuracy < blocked - 0.2  # later attacks climb the margin

    # The margin is never rounded to 0, and the cross-entropy of attacks of one's own still is.
    again = loss_is_not_saturated(subject)
    assert again.state is State.FAIL
    assert again.values == found.values
    assert subject.settings["loss"] == "margin"

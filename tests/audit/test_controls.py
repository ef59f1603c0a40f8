"""Each check against a control has a defense that passes and a planted one that fails."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.audit import controls
from bench.audit.controls import (
    KnownSeed,
    bare_classifier_falls,
    better_than_bare,
    bits_for,
    not_only_randomness,
    planted_controls,
    purifier_adds_to_its_noise,
)
from bench.audit.findings import State
from bench.audit.subject import Subject
from bench.audit.toys import Quantizer, RandomShift, Untouched
from bench.core.rng import Rng
from bench.core.threat import Access, Norm, ThreatModel
from bench.results.files import read_json
from bench_defenses.gaussian import Gaussian

Make = Callable[..., Subject]


class Memory:
    """Knows the clean images and hands the nearest one on, with a little noise."""

    differentiable = False

    def __init__(self, sigma: float = 0.0) -> None:
        self.sigma = sigma
        self.stochastic = sigma > 0
        self.known = torch.empty(0)

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        nearest = torch.cdist(x.flatten(1), self.known.flatten(1)).argmin(1)
        return self.known[nearest] + self.sigma * rng.normal_like(x)


class NoisyMemory(Memory):
    def noise_alone(self) -> Gaussian:
        return Gaussian(self.sigma)


@pytest.fixture
def remembering(make_subject: Make) -> Callable[..., Subject]:
    """A subject whose purifier, if it is a memory, knows the subject's images."""

    def make(purifier: Memory, **settings: Any) -> Subject:
        subject = make_subject(purifier, **settings)
        purifier.known = subject.images.x
        return subject

    return make


def test_not_only_randomness(make_subject: Make, remembering: Make) -> None:
    passed = not_only_randomness(remembering(NoisyMemory(0.02)))
    assert passed.state is State.PASS
    assert passed.values["known seed"] > passed.values["bare"] + 0.5

    shifts = make_subject(RandomShift(1), n=64, settings={"steps": 2, "eot": 1})
    failed = not_only_randomness(shifts)
    assert failed.state is State.FAIL
    assert "an attacker who knows the noise takes it away" in failed.reason
    assert failed.values["known seed"] < failed.values["robust"] - 0.1
    shown = [f"{failed.values[name]:.1%}" for name in ("robust", "known seed", "bare")]
    assert all(figure in failed.figure for figure in shown)

    few = make_subject(RandomShift(1), n=8, settings={"steps": 2, "eot": 1}, name="few")
    warned = not_only_randomness(few)
    assert warned.state is State.WARN
    assert "8 images are too few" in warned.reason

    still = not_only_randomness(make_subject(Memory()))
    assert (still.state, "deterministic" in still.reason) == (State.NOT_APPLICABLE, True)


def test_a_known_seed_is_tried_on_all_images_only_where_it_decides(
    remembering: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controls, "_FIRST", 12)
    subject = remembering(NoisyMemory(0.02), n=24)
    passed = not_only_randomness(subject)
    assert passed.state is State.PASS
    assert "of the first 12 once the noise is known" in passed.figure
    tried = {
        cell["n"]
        for cell in (read_json(path / "cell.json") for path in subject.workspace.store.cells())
        if "known seed" in cell["defense"]["name"]
    }
    assert tried == {12}
    monkeypatch.setattr(controls, "_FIRST", 3)  # too few for a paired test
    assert "of the first" not in not_only_randomness(subject).figure


def test_randomness_that_does_not_gain_is_not_called_robustness(make_subject: Make) -> None:
    hurt = not_only_randomness(make_subject(RandomShift(1), eps=Fraction(3, 100)))
    assert hurt.values["known seed"] < hurt.values["robust"] < hurt.values["bare"]
    assert hurt.state is State.PASS


def test_a_known_seed_makes_noise_of_the_image_alone() -> None:
    purifier = KnownSeed(Gaussian(0.3), seed=5)
    x = torch.rand(4, 1, 8, 8)
    rng = Rng.seeded(0, [7, 3, 9, 7])
    purified = purifier.purify(x, rng=rng)
    noise = purified - x
    assert torch.equal(purifier.purify(x, rng=rng.fork("other")), purified)
    assert torch.equal(purifier.purify(x[1:2], rng=rng[1:2].repeat(3)[:1]), purified[1:2])
    torch.testing.assert_close(noise[0], noise[3])  # the same image twice
    assert not torch.allclose(noise[0], noise[1])
    assert not torch.equal(KnownSeed(Gaussian(0.3), seed=6).purify(x, rng=rng), purified)
    assert (purifier.stochastic, purifier.differentiable) == (False, True)
    assert not KnownSeed(Memory(), seed=0).differentiable


class Masked(nn.Module):
    """A classifier whose gradients are all 0, so that only queries find anything."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(x)
        return logits.detach() + 0 * logits


def test_bare_classifier_falls(make_subject: Make, classifier: nn.Module) -> None:
    passed = bare_classifier_falls(make_subject(Gaussian(0.1)))
    assert (passed.state, passed.values["bare"]) == (State.PASS, 0)

    failed = bare_classifier_falls(make_subject(None, Masked(classifier), name="masked"))
    assert failed.state is State.FAIL
    assert failed.values["bare"] > failed.values["autoattack"] == 0

    hasty = make_subject(name="hasty", eps=Fraction(8, 100), settings={"steps": 1})
    warned = bare_classifier_falls(hasty)
    assert warned.state is State.WARN
    assert warned.values["bare"] > 0


@pytest.mark.parametrize(
    ("norm", "eps"),
    [(Norm.LINF, Fraction(15, 100)), (Norm.LINF, Fraction(3, 100)), (Norm.L2, Fraction(1))],
)
def test_planted_controls_are_flagged_and_broken(
    make_subject: Make, norm: Norm, eps: Fraction
) -> None:
    found = planted_controls(make_subject(Gaussian(0.1), norm=norm, eps=eps, n=40))
    assert (found.state, found.values["faults"]) == (State.PASS, [])
    assert len(found.values["robust"]) == 4


def test_an_audit_that_flags_nothing_is_not_trusted(
    make_subject: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    blind = planted_controls(make_subject())
    monkeypatch.setattr(controls, "gradient_exists", lambda subject: blind)
    found = planted_controls(make_subject())
    assert found.state is State.FAIL
    assert "C2 does not flag the no-grad purifier" in found.reason
    assert "C2 does not flag the 3-bit quantizer" in found.reason


def test_a_control_that_is_not_broken_is_named(
    make_subject: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controls, "bits_for", lambda threat, numbers: 1)
    found = planted_controls(make_subject())  # black and white does undo small perturbations
    assert found.state is State.FAIL
    assert "BPDA does not break the 1-bit quantizer" in found.reason
    assert "no-grad" not in found.reason


def test_an_identity_that_is_not_the_bare_classifier_is_named(
    make_subject: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Untouched, "purify", lambda self, x, *, rng: x.flip(3))
    found = planted_controls(make_subject())
    assert found.state is State.FAIL
    assert "the identity purifier is not broken exactly" in found.reason


@pytest.mark.parametrize(
    ("norm", "eps", "bits"),
    [
        (Norm.LINF, Fraction(3, 10), 3),
        (Norm.LINF, Fraction(1, 7), 3),
        (Norm.LINF, Fraction(1, 8), 4),
        (Norm.LINF, Fraction(1, 255), 8),
        (Norm.L2, Fraction(1, 7) * 2, 3),  # of 64 numbers: half of it is the Linf radius
        (Norm.L2, Fraction(1, 4), 4),
    ],
)
def test_a_quantizers_levels_lie_within_the_ball(norm: Norm, eps: Fraction, bits: int) -> None:
    assert bits_for(ThreatModel(norm, eps, Access.FULL), 64) == bits


def test_purifier_adds_to_its_noise(make_subject: Make, remembering: Make) -> None:
    passed = purifier_adds_to_its_noise(remembering(NoisyMemory(0.1)))
    assert passed.state is State.PASS
    assert passed.values["robust"] > passed.values["noise alone"] + 0.5

    failed = purifier_adds_to_its_noise(make_subject(Gaussian(0.2), name="gaussian"))
    assert failed.state is State.FAIL
    assert failed.values["robust"] == failed.values["noise alone"]

    mute = purifier_adds_to_its_noise(remembering(Memory(0.1)))
    assert (mute.state, "noise_alone(self)" in mute.reason) == (State.NOT_APPLICABLE, True)
    still = purifier_adds_to_its_noise(make_subject(Quantizer(3)))
    assert (still.state, "deterministic" in still.reason) == (State.NOT_APPLICABLE, True)


def test_langevin_noise_alone_is_the_same_noise(langevin: Callable[..., Any]) -> None:
    whole = langevin(steps=3, noise=0.2)
    x, rng = torch.rand(5, 1, 8, 8), Rng.seeded(0, list(range(5)))
    by_hand = x
    for k in range(3):
        noise = rng.fork("langevin", k).normal_like(x)
        by_hand = (by_hand + 0.2 * noise).clamp(0, 1)
    alone = whole.noise_alone()
    torch.testing.assert_close(alone.purify(x, rng=rng), by_hand)
    drifting = langevin(steps=3, noise=0.2, step_size=0.0)
    assert torch.equal(alone.purify(x, rng=rng), drifting.purify(x, rng=rng))


def test_better_than_bare(make_subject: Make, remembering: Make) -> None:
    assert better_than_bare(remembering(Memory())).state is State.PASS

    failed = better_than_bare(make_subject(RandomShift(2), eps=Fraction(5, 100)))
    assert failed.state is State.FAIL
    assert failed.values["bare robust"] > failed.values["robust"]
    assert "the purifier hurts" in failed.reason

    warned = better_than_bare(make_subject(RandomShift(2), name="clean alone"))
    assert warned.state is State.WARN
    assert "costs clean images" in warned.reason

    identity = better_than_bare(make_subject())
    assert (identity.state, identity.reason) == (
        State.NOT_APPLICABLE,
        "the purifier changes no image: the defense is the bare classifier",
    )


def test_a_subject_of_a_variant_shares_its_cells(make_subject: Make) -> None:
    subject = make_subject(Gaussian(0.1))
    subject.strong(variant=subject.bare)
    subject.of(subject.bare).strong()
    assert len(subject.workspace.store.cells()) == 2
    few = subject.of(subject.bare, 5)
    assert len(few.strong().rows) == 5
    assert len(subject.of(subject.bare, 1000).images) == 32


def test_controls_go_without_the_coarser_process_that_they_have_not(
    make_subject: Make, langevin: Callable[..., Any]
) -> None:
    """The main attack takes its gradients from half of the steps."""
    subject = make_subject(langevin(steps=4), name="coarse", n=8, settings={"surrogate": 2})
    for check in (
        not_only_randomness, bare_classifier_falls, planted_controls,
        purifier_adds_to_its_noise, better_than_bare,
    ):  # fmt: skip
        check(subject)
    asked = {
        (cell["defense"]["name"], cell["attack"]["params"]["surrogate"])
        for path in subject.workspace.store.cells()
        if "surrogate" in (cell := read_json(path / "cell.json"))["attack"]["params"]
    }
    assert {factor for name, factor in asked if name == "coarse"} == {2}
    assert {factor for name, factor in asked if name != "coarse"} == {2, None}
    assert ("coarse, noise alone", 2) in asked  # the same purifier without its steps
    assert ("coarse, no purifier", None) in asked

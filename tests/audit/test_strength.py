"""Each check of the attack's strength has a defense that passes and one that fails."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from bench.audit import attacks
from bench.audit.best_iterate import Watched, no_silent_success
from bench.audit.controls import bare_classifier_falls
from bench.audit.findings import Finding, State, Weight
from bench.audit.strength import (
    iterative_beats_one_step,
    noise_is_weaker,
    square_is_weaker,
    transfer_is_weaker,
)
from bench.audit.subject import Subject
from bench.audit.sweeps import converged, monotone_in_eps, unbounded_breaks
from bench.core.losses import cross_entropy
from bench.core.protocols import View
from bench.core.rng import Rng
from bench.core.threat import Access, Norm
from bench.data.load import load_test
from bench.results.files import read_json
from bench_attacks.apgd import Apgd
from bench_attacks.apgd_t import ApgdT

Make = Callable[..., Subject]
CHECKS = (
    converged,
    no_silent_success,
    monotone_in_eps,
    unbounded_breaks,
    iterative_beats_one_step,
    transfer_is_weaker,
    square_is_weaker,
    noise_is_weaker,
)


class Dimmed:
    """Makes images a little darker, with its true gradient."""

    stochastic = False
    differentiable = True

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        return 0.99 * x


class _Flip(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return -grads[0]


class Misleading(Dimmed):
    """Sends attackers downhill."""

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        return _Flip.apply(0.99 * x)


class MisleadingOffGrid(Dimmed):
    """Sends attackers downhill, but for those who stand on an image of the data set.

    A digit's pixels are sixteenths.
    """

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        on_grid = ((16 * x).round() == 16 * x).flatten(1).all(1)
        flipped = _Flip.apply(x)
        return torch.where(on_grid.reshape(-1, 1, 1, 1), x, flipped)


class Narrow(Dimmed):
    """Lets the gradient reach one row of pixels at a time, another one at every step."""

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        rows = (1e4 * x.detach().flatten(1).sum(1)).long() % 8
        seen = torch.arange(8)[None, :, None] == rows[:, None, None]
        return torch.where(seen[:, None], x, x.detach())


class Memory(Dimmed):
    """Replaces what is farther than ``reach`` in Linf from every test image by the nearest."""

    def __init__(self, reach: float) -> None:
        self.reach = reach
        self.known = load_test("digits", root=Path()).images(0, 64).x

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        away = torch.cdist(x.detach().flatten(1), self.known.flatten(1))
        nearest = self.known[away.argmin(1)]
        far = (x.detach() - nearest).flatten(1).abs().amax(1) > self.reach
        return torch.where(far.reshape(-1, 1, 1, 1), nearest + 0 * x, x)


class Through(nn.Module):
    """A classifier behind a function of the image."""

    def __init__(self, network: nn.Module, before: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.before = network, before

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(self.before(x))
        return logits


def state(finding: Finding) -> State:
    """Failing a check takes a reason, passing it none; both show a figure."""
    assert finding.figure
    assert bool(finding.reason) == (finding.state is not State.PASS)
    return finding.state


def test_converged(make_subject: Make, langevin: Callable[..., Any]) -> None:
    enough = converged(make_subject(settings={"steps": 10}))
    assert state(enough) is State.PASS
    budgets = {"accuracy", "steps", "restarts"}
    assert set(enough.values) == budgets, "no draws to double"

    short = converged(make_subject(Narrow(), name="narrow", settings={"steps": 3}))
    assert state(short) is State.FAIL
    assert "twice the steps break" in short.reason
    assert "raise attack.steps" in short.reason
    assert short.values["steps"]["p"] <= 0.01

    noisy = converged(make_subject(langevin(), name="noisy", settings={"steps": 1, "eot": 1}))
    assert "eot" in noisy.values


def test_monotone_in_eps(make_subject: Make) -> None:
    falls = monotone_in_eps(make_subject())
    assert state(falls) is State.PASS
    radii, accuracies = zip(*falls.values["curve"], strict=True)
    assert radii == pytest.approx((0, 0.15 / 4, 0.15 / 2, 0.15, 0.3, 0.6))
    assert list(accuracies) == sorted(accuracies, reverse=True)

    rises = monotone_in_eps(make_subject(Memory(0.16), name="detector"))
    assert state(rises) is State.FAIL
    assert "stay right at eps 0.3 than at 0.15" in rises.reason


def test_the_radii_end_at_the_pixel_range(make_subject: Make) -> None:
    half, fifth = Fraction(1, 2), Fraction(2, 5)
    assert attacks.radii(make_subject(eps=half)) == [Fraction(1, 8), Fraction(1, 4), half, 1]
    l2 = make_subject(eps=fifth, norm=Norm.L2)
    assert attacks.radii(l2) == [fifth / 4, fifth / 2, fifth, 2 * fifth, 4 * fifth]


def test_unbounded_breaks(make_subject: Make) -> None:
    reached = unbounded_breaks(make_subject())
    assert state(reached) is State.PASS
    assert reached.values["chance"] == 0.1
    assert reached.values["limit"] == pytest.approx(0.1 + 3 * (0.1 * 0.9 / 32) ** 0.5)

    unreached = unbounded_breaks(make_subject(Memory(-1.0), name="memory"))
    assert state(unreached) is State.FAIL
    assert unreached.weight is Weight.VOID
    assert "any image can be reached" in unreached.reason


def test_no_silent_success(
    make_subject: Make, langevin: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert state(no_silent_success(make_subject())) is State.PASS
    assert state(no_silent_success(make_subject(langevin(), name="noisy"))) is State.PASS
    # By single draws the judge often contradicts itself: the point returned stays the best.
    fickle = make_subject(langevin(noise=0.4), name="fickle", draws=1, settings={"eot": 5})
    assert state(no_silent_success(fickle)) is State.PASS
    surrogate = make_subject(langevin(), name="coarse", settings={"surrogate": 2})
    assert no_silent_success(surrogate).values["indices"] == []

    def forgetful(attack: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(self: Any, view: View, x: Tensor, y: Tensor, **rest: Any) -> Tensor:
            found = attack(self, view, x, y, **rest)
            return torch.cat((x[:lost], found[lost:]))

        return call

    honest = attacks.right(make_subject().strong())
    for kind in (Apgd, ApgdT):
        monkeypatch.setattr(kind, "__call__", forgetful(kind.__call__))
    lost = 32
    silent = no_silent_success(make_subject(name="all forgotten"))
    assert state(silent) is State.FAIL
    was_clean = attacks.clean(make_subject(name="all forgotten").strong())
    assert silent.values["indices"] == (was_clean & ~honest).nonzero()[0].tolist()
    lost = 1
    assert was_clean[0]
    assert not honest[0]
    once = no_silent_success(make_subject(name="one forgotten"))
    assert (state(once), once.values["indices"]) == (State.WARN, [0])


class Scripted:
    """Of four draws, four times the pixel's value mistake class 0 for 1; sure of it or not."""

    access = Access.FULL
    stochastic = True

    def __call__(self, x: Tensor, *, rng: Rng) -> Tensor:
        value = x[:, 0, 0, 0]
        wrong = rng._draws % 4 < (4 * value).floor()
        return torch.stack((0 * value, torch.where(wrong, 1 + value % 0.25, -1)), 1)


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=8))
def test_what_most_draws_mistook_is_kept(values: list[float]) -> None:
    view: Any = Scripted()
    watched = Watched(view, {7: 0, 9: 0}, cross_entropy)
    rng = Rng.seeded(0, [7, 9])
    for value in values:
        x = torch.tensor([value, 0.25]).reshape(2, 1, 1, 1)
        watched(x.repeat_interleave(4, dim=0), rng=rng.repeat(4))
    assert 9 not in watched.sights, "a quarter of the draws is no vote"
    if max(values) < 0.75:
        assert 7 not in watched.sights
    else:
        assert watched.sights[7].x.item() == pytest.approx(max(values), abs=1e-6)


def test_iterative_beats_one_step(make_subject: Make) -> None:
    assert state(iterative_beats_one_step(make_subject())) is State.PASS

    lost = iterative_beats_one_step(make_subject(MisleadingOffGrid(), name="off grid"))
    assert state(lost) is State.FAIL
    assert "one step (FGSM) breaks" in lost.reason


def test_transfer_is_weaker(make_subject: Make, classifier: nn.Module) -> None:
    assert state(transfer_is_weaker(make_subject(Dimmed(), name="dimmed"))) is State.PASS

    # AutoAttack's Square needs no gradient, which both white-box attacks are misled by.
    masked = make_subject(Dimmed(), Through(classifier, _Flip.apply), name="masked")
    finding = transfer_is_weaker(masked)
    assert state(finding) is State.FAIL
    assert "masks gradients" in finding.reason
    assert len(finding.values["indices"]) == finding.values["extra"] > 1

    # BPDA passes the misleading purifier by.
    misled = make_subject(Misleading(), name="misled")
    assert state(transfer_is_weaker(misled)) is State.PASS

    same = transfer_is_weaker(make_subject())
    assert same.state is State.NOT_APPLICABLE
    assert "changes no image" in same.reason


def test_square_is_weaker(make_subject: Make) -> None:
    passes = square_is_weaker(make_subject())
    assert state(passes) is State.PASS
    assert "200 queries" in passes.figure

    misled = make_subject(Misleading(), name="misled")
    finding = square_is_weaker(misled)
    assert state(finding) is State.FAIL
    kept = attacks.right(misled.strong())[finding.values["indices"]]
    assert kept.all(), "what the main attack breaks as well is not Square's alone"


def test_noise_is_weaker(make_subject: Make) -> None:
    passes = noise_is_weaker(make_subject(norm=Norm.L2, eps=Fraction(2, 5)))
    assert state(passes) is State.PASS

    finding = noise_is_weaker(make_subject(Misleading(), name="misled", eps=Fraction(1, 5)))
    assert state(finding) is State.FAIL
    assert finding.values["noise"] > finding.values["main"]

    few = noise_is_weaker(make_subject(eps=Fraction(1, 1000)))
    assert few.state is State.NOT_APPLICABLE
    assert "too few" in few.reason


def test_the_worst_is_the_minimum_per_image(
    make_subject: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attacks, "TRIES", 20)
    misled = make_subject(Misleading(), name="misled")
    worst = attacks.worst(misled)
    parts = [
        attacks.right(run)
        for run in (
            misled.strong(),
            *attacks.doubled(misled).values(),
            attacks.one_step(misled),
            attacks.bpda(misled),
            attacks.transfer(misled),
            attacks.square(misled),
            attacks.noise(misled),
        )
    ]
    assert not (worst & ~np.min(parts, axis=0)).any()
    assert worst.mean() < misled.strong().accuracy - 0.5

    detector = make_subject(Memory(0.08), name="detector")
    missed = attacks.right(detector.strong()) & ~attacks.worst(detector)
    near = attacks.right(detector.quick(eps=detector.threat.eps / 2))
    assert (missed & ~near).any(), "what a smaller ball breaks, this one breaks"
    assert (attacks.worst(detector) <= near).all()


def test_autoattack_runs_once_where_there_is_no_purifier(make_subject: Make) -> None:
    def asked(subject: Subject) -> list[str]:
        attacks.worst(subject)
        bare_classifier_falls(subject)
        cells = [read_json(path / "cell.json") for path in subject.workspace.store.cells()]
        of = [
            cell["defense"]["name"] for cell in cells if cell["attack"]["name"] == "autoattack"
        ]
        return sorted(of)

    bare = make_subject(name="bare", eps=Fraction(1, 20))
    assert asked(bare) == ["bare, no purifier"]
    stays = attacks.right(attacks.on_bare(bare))
    assert 0 < stays.mean() < 1
    assert (attacks.worst(bare) <= stays).all()
    dimmed = asked(make_subject(Dimmed(), name="dimmed", eps=Fraction(1, 20)))
    assert dimmed == ["bare, no purifier", "dimmed", "dimmed, no purifier"]


@pytest.mark.parametrize("check", CHECKS)
def test_no_check_applies_without_any_gradient(
    check: Callable[[Subject], Finding], make_subject: Make, classifier: nn.Module
) -> None:
    finding = check(make_subject(Dimmed(), Through(classifier, Tensor.detach)))
    assert finding.state is State.NOT_APPLICABLE
    assert "no gradient" in finding.reason


def test_the_worst_without_any_gradient_is_that_of_queries(
    make_subject: Make, classifier: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attacks, "TRIES", 20)
    blind = make_subject(Dimmed(), Through(classifier, Tensor.detach))
    square, noise = attacks.right(attacks.square(blind)), attacks.right(attacks.noise(blind))
    assert (attacks.worst(blind) == (square & noise)).all()


def test_catalogue_numbers(make_subject: Make, classifier: nn.Module) -> None:
    subject = make_subject(Dimmed(), Through(classifier, Tensor.detach))
    for check in CHECKS:
        assert (check.__doc__ or "").startswith(f"{check(subject).check}: ")

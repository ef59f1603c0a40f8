"""What was recorded: planted illegal images, uncounted networks, settings without effect."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, ClassVar

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from bench.audit.energies import energy_tells_attacks
from bench.audit.findings import State, verdict
from bench.audit.records import cost_is_recorded, images_are_legal, settings_take_effect
from bench.audit.subject import Subject
from bench.core.protocols import View
from bench.core.rng import Rng
from bench.core.threat import Access, Norm, ThreatModel
from bench_attacks.pgd import Pgd
from bench_defenses.energies.langevin import LangevinPurifier

MakeSubject = Callable[..., Subject]


@dataclass(frozen=True)
class Leaper(Pgd):
    """A cheating attack: it leaves the ball by a half."""

    def __call__(
        self, view: View, x: Tensor, y: Tensor, *, threat: ThreatModel, rng: Rng
    ) -> Tensor:
        return (x + 1.5 * threat.radius).clamp(0, 1)


@dataclass(frozen=True)
class Idle(Pgd):
    """An attack with a parameter that nothing reads."""

    revision: ClassVar[int] = 1
    patience: int = 1

    def __call__(
        self, view: View, x: Tensor, y: Tensor, *, threat: ThreatModel, rng: Rng
    ) -> Tensor:
        return (x + 0.5 * threat.radius).clamp(0, 1)


class Eraser(Idle):
    """Breaks nearly every image at once."""

    def __call__(
        self, view: View, x: Tensor, y: Tensor, *, threat: ThreatModel, rng: Rng
    ) -> Tensor:
        return torch.zeros_like(x)


def test_legal_images(make_subject: MakeSubject) -> None:
    subject = make_subject(None)
    assert images_are_legal(subject).state is State.PASS

    subject.run_with(Leaper(), "leaper", Access.FULL)
    found = images_are_legal(subject)
    assert found.state is State.FAIL
    assert "leaper" in found.reason
    # The cheat gains nothing: what is illegal does not count as a break.
    run = subject.run_with(Leaper(), "leaper", Access.FULL)
    assert run.rows["robust"].equals(run.rows["clean"])


def test_the_user_s_own_cells_on_the_same_defense_are_looked_at(
    make_subject: MakeSubject,
) -> None:
    subject = make_subject(None)
    theirs = replace(subject, workspace=replace(subject.workspace, store=subject.results))
    theirs.run_with(Leaper(), "leaper", Access.FULL)
    found = images_are_legal(subject)
    assert found.state is State.FAIL
    assert "cell" in found.reason


class Hidden:
    """Keeps the classifier's work where no pass is counted."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def __call__(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network.forward(x)
        return logits


class Shell(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._forward = Hidden(network)

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(x)

    def __call__(self, x: Tensor) -> Tensor:  # no hooks
        return self._forward(x)


def test_cost(make_subject: MakeSubject, classifier: nn.Module) -> None:
    honest = make_subject(None)
    honest.strong()
    assert cost_is_recorded(honest).state is State.PASS
    assert "1 of 1 cells" in cost_is_recorded(honest).figure
    subject = make_subject(None, Shell(classifier), name="hidden")
    subject.strong()
    hidden = cost_is_recorded(subject)
    assert hidden.state is State.FAIL
    assert "not counted" in hidden.reason


_LOADED: list[nn.Module] = []


class Lazy:
    """Loads a network at its first call, into a global of its module."""

    stochastic = False
    differentiable = True

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        if not _LOADED:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                _LOADED.append(nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.ReLU()))
        return x + 0 * nn.AvgPool2d(1)(_LOADED[0](x))


def test_a_network_that_is_in_no_key_is_named(make_subject: MakeSubject) -> None:
    for name in ("first", "second"):  # it may be there from the cell before
        subject = make_subject(Lazy(), name=name)
        (flag,) = subject.strong().cost["flags"]
        assert "does not hold were called (Sequential): its weights are not part of" in flag
        found = cost_is_recorded(subject)
        assert found.state is State.FAIL
        assert "that no key knows" in found.reason


def test_an_attack_that_calls_no_network_is_counted_too(
    make_subject: MakeSubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = make_subject(None)
    monkeypatch.setattr("bench.evaluation.propose.time.perf_counter", lambda: 0.0)
    run = subject.run_with(Idle(), "idle", Access.FULL)
    assert (run.cost["attack passes"], run.cost["attack seconds"]) == ({}, 0)
    assert cost_is_recorded(subject).state is State.PASS


def test_settings(make_subject: MakeSubject) -> None:
    subject = make_subject(None)
    subject.run_with(Idle(patience=1), "idle", Access.FULL)
    subject.strong()
    subject.strong(settings={"steps": 4})
    assert settings_take_effect(subject).state is State.PASS

    subject.run_with(Idle(patience=2), "idle", Access.FULL)
    found = settings_take_effect(subject)
    assert found.state is State.FAIL
    assert "attack.patience" in found.reason
    # An attack whose budget makes no difference is no evidence.
    assert verdict([found]).state == "upper bound"


def test_nothing_is_told_where_nothing_is_left(make_subject: MakeSubject) -> None:
    """An attack lets go of what it broke: whatever it was to do then was not done."""
    subject = make_subject(None, eps=Fraction(1))
    one, two = (subject.run_with(Eraser(patience=k), "eraser", Access.FULL) for k in (1, 2))
    assert one.rows["distance"].equals(two.rows["distance"])
    assert one.rows["robust"].sum() < 8
    assert settings_take_effect(subject).state is State.PASS


def test_draws_may_do_nothing_to_a_deterministic_defense(make_subject: MakeSubject) -> None:
    subject = make_subject(None)
    subject.strong()
    subject.strong(settings={"eot": 2})
    assert settings_take_effect(subject).state is State.PASS


class Grid(nn.Module):
    """Energy of the distance to the sixteenths of which the clean digits are made."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - ((x * 16).round() / 16).detach()).square().flatten(1).sum(1)


def test_energies(make_subject: MakeSubject) -> None:
    def purifier(energy: nn.Module) -> LangevinPurifier:
        return LangevinPurifier(energy, steps=3, step_size=0.2, noise=0.0)

    fine = energy_tells_attacks(make_subject(purifier(Grid())))
    assert fine.state is State.PASS
    assert fine.values["auc"] > 0.5
    path = fine.values["mean energy along purification"]
    assert len(path) == 4
    assert path[-1] < path[0]

    climbing = LangevinPurifier(Grid(), steps=3, step_size=-0.02, noise=0.0)
    found = energy_tells_attacks(make_subject(climbing, name="climbing"))
    assert found.state is State.FAIL
    assert "raises the energy" in found.reason

    none: Any = energy_tells_attacks(make_subject(None, name="none"))
    assert none.state is State.NOT_APPLICABLE


def test_the_norm_of_a_subject_is_its_ball(make_subject: MakeSubject) -> None:
    subject = make_subject(None, norm=Norm.L2)
    rows: pd.DataFrame = subject.strong().rows
    assert rows["distance"].max() <= subject.threat.radius + 1e-6

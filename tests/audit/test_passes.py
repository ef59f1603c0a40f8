"""An audit spends its passes where they decide: on what is left, and until it is sure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.audit import attacks, noise_race, sweeps
from bench.audit.controls import not_only_randomness
from bench.audit.findings import State
from bench.audit.loss_surface import surface_is_smooth
from bench.audit.noise_race import NoiseRace
from bench.audit.records import settings_take_effect
from bench.audit.subject import Run, Subject
from bench.audit.sweeps import monotone_in_eps, unbounded_breaks
from bench.audit.votes import resubmission
from bench.core.access import view_of
from bench.core.defense import Defense
from bench.core.passes import count_passes
from bench.core.rng import Rng
from bench.core.threat import Access, Norm, ThreatModel
from bench.results.files import read_json
from bench_attacks.noise import Noise
from bench_defenses.gaussian import Gaussian

from .test_strength import Memory

Make = Callable[..., Subject]


class Silent:
    """Says that it draws noise, and draws none."""

    stochastic = True
    differentiable = True

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        return 0.99 * x


def passes(run: Run) -> int:
    return sum(run.cost["attack passes"].values())


def test_what_another_run_broke_is_not_attacked_again(make_subject: Make) -> None:
    subject = make_subject(Gaussian(0.1), eps=Fraction(1, 20), n=32)
    main = subject.quick()
    left = attacks.right(main)
    assert 3 < left.sum() < 29
    again = subject.quick(settings={"restarts": 2}, after=main)
    whole = subject.quick(settings={"restarts": 2})
    assert list(again.rows["index"]) == list(range(32))
    assert not (attacks.right(again) & ~left).any()
    assert (attacks.right(again) == (attacks.right(whole) & left)).all()
    kept = torch.tensor(left)
    assert torch.equal(again.x_adv[kept], whole.x_adv[kept])
    assert torch.equal(again.x_adv[~kept], main.x_adv[~kept])
    assert passes(again) < passes(whole)

    third = subject.quick(settings={"steps": 9}, after=again)
    assert third.keys == (main.keys[0], again.keys[1], third.keys[2])
    assert not (attacks.right(third) & ~attacks.right(again)).any()


def test_the_main_attack_goes_on_to_each_class(make_subject: Make) -> None:
    hasty = {"steps": 1}
    subject = make_subject(Gaussian(0.1), eps=Fraction(1, 10), n=32, settings=hasty)
    first, main = subject.quick(), subject.strong()
    left, kept = attacks.right(first), attacks.right(main)
    assert not (kept & ~left).any()
    assert kept.sum() < left.sum(), "targets break more"
    # What no ascent broke keeps the image that came nearest to it.
    still = torch.tensor(kept | ~left)
    assert torch.equal(main.x_adv[still], first.x_adv[still])
    fell = torch.tensor(left & ~kept)
    assert (main.x_adv[fell] != first.x_adv[fell]).flatten(1).any(1).all()
    assert main.keys[:1] == first.keys


def test_where_nothing_is_left_nothing_is_run(make_subject: Make) -> None:
    subject = make_subject(eps=Fraction(1), n=12)
    main = subject.strong()
    assert not attacks.right(main).any()
    for run in attacks.doubled(subject).values():
        assert passes(run) == 0
        assert run.rows.equals(main.rows)
        assert torch.equal(run.x_adv, main.x_adv)


def race(
    subject: Subject, defense: Defense, tries: int, norm: Norm = Norm.LINF, attack: Any = None
) -> tuple[Tensor, int]:
    images, threat = subject.images, ThreatModel(norm, Fraction(1, 50), Access.QUERY)
    view, rng = view_of(defense, Access.QUERY), subject.rng.fork("race")
    with count_passes(defense.networks()) as counted:
        found = (attack or NoiseRace(tries))(view, images.x, images.y, threat=threat, rng=rng)
    return found, counted.total()


@pytest.mark.parametrize("norm", list(Norm))
def test_the_race_is_the_attack_noise_given_up_early(
    make_subject: Make, classifier: nn.Module, monkeypatch: pytest.MonkeyPatch, norm: Norm
) -> None:
    subject = make_subject(Gaussian(0.1), n=16)
    whole, _ = race(subject, subject.defense, 60, norm, Noise(tries=60, eot=1))
    found, spent = race(subject, subject.defense, 60, norm)
    same = (found == whole).flatten(1).all(1)
    assert same.any(), "some images stay, and get the very tries of the attack"
    assert not same.all(), "others leave"
    assert 16 * 20 <= spent < 16 * 60
    monkeypatch.setattr(noise_race, "_LOOKS", ())
    everything, spent = race(subject, subject.defense, 60, norm)
    assert torch.equal(everything, whole)
    assert spent == 16 * 60


class Scripted:
    """The fourth call mistakes images 0 and 1, and the vote of the 26th confirms one of them.

    The margins of the others are far below 0, of each farther than of the one before.
    """

    access = Access.QUERY
    stochastic = True

    def __init__(self) -> None:
        self.seen: list[list[int]] = []

    def __call__(self, x: Tensor, *, rng: Rng) -> Tensor:
        self.seen.append(rng._images.tolist())
        wrong = (len(self.seen) == 4) & (rng._images < 2)
        wrong |= (len(self.seen) == 26) & (rng._images == 1)
        value = torch.where(wrong, 1.0, -10.0 - rng._images)
        return torch.stack((torch.zeros_like(value), value), dim=1)


def test_who_leaves_the_race() -> None:
    view: Any = Scripted()
    x, y = torch.full((5, 1, 2, 2), 0.5), torch.zeros(5, dtype=torch.int64)
    threat = ThreatModel(Norm.LINF, Fraction(1, 10), Access.QUERY)
    NoiseRace(30)(view, x, y, threat=threat, rng=Rng.seeded(0, range(5)))
    confirmed, last = 1, 4  # who leave
    assert view.seen == [
        *25 * [[0, confirmed, 2, 3, last]],
        [*10 * [0], *10 * [1]],
        *5 * [[0, 2, 3]],
    ]


class HeavyTailed:
    """Mistakes one corner of the ball in 500 around every fourth image, and none of the others.

    Most margins are alike, about ten deviations below 0.
    """

    access = Access.QUERY
    stochastic = False

    def __call__(self, x: Tensor, *, rng: Rng) -> Tensor:
        normal = (x - 0.5).sign().flatten(1).sum(1) / x[0].numel() ** 0.5
        pareto = 10 * ((500 * torch.special.ndtr(-normal)) ** -0.5 - 1)
        value = torch.where(rng._images % 4 == 0, pareto, normal - 10)
        return torch.stack((torch.zeros_like(value), value), dim=1)


def test_the_race_finds_rare_mistakes() -> None:
    view: Any = HeavyTailed()
    x, y = torch.full((80, 1, 20, 20), 0.5), torch.zeros(80, dtype=torch.int64)
    threat = ThreatModel(Norm.LINF, Fraction(1, 10), Access.QUERY)
    rng = Rng.seeded(0, range(80))
    found = NoiseRace(1000)(view, x, y, threat=threat, rng=rng)
    mistaken = view(found, rng=rng)[:, 1] >= 0
    assert mistaken.sum() >= 10, "1,000 tries on all find 17 of 20 on average"
    assert not mistaken[torch.arange(80) % 4 != 0].any()


def test_the_sweep_takes_all_images_where_some_show_a_rise(
    make_subject: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attacks, "FEW", 8)
    falls = monotone_in_eps(make_subject(n=24))
    assert falls.state is State.PASS
    assert "of 8 images" in falls.figure

    rises = attacks.sweep(make_subject(Memory(0.16), name="detector", n=24))
    left = [int(kept.sum()) for _, kept in rises]
    assert left != sorted(left, reverse=True), "the detector is one"
    assert {len(kept) for _, kept in rises} == {24}


def test_the_unbounded_attack_takes_all_images_where_some_stay_right(
    make_subject: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeps, "_FEW", 16)
    assert "of 16 stay right" in unbounded_breaks(make_subject(n=32)).figure
    hidden = unbounded_breaks(make_subject(Memory(-1.0), name="memory", n=32))
    assert "of 32 stay right" in hidden.figure


def test_resubmission_takes_no_more_draws_than_it_needs(make_subject: Make) -> None:
    subject = make_subject(Gaussian(0.05), n=8, draws=50)
    resubmission(subject)
    (folder,) = subject.workspace.store.cells()
    assert read_json(folder / "cell.json")["draws"] == 20


def test_the_surface_is_measured_until_it_is_clear(
    make_subject: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spent(subject: Subject) -> int:
        subject.strong()
        with count_passes(subject.defense.networks()) as counted:
            surface_is_smooth(subject)
        return counted["classifier forward"]

    subject = make_subject(n=16)
    assert 16 * (1 + 20) <= spent(subject) < 16 * 30
    # A threshold where the mean is takes all directions.
    change = surface_is_smooth(subject).values["change"]
    monkeypatch.setattr("bench.audit.loss_surface._RUGGED", change)
    assert spent(subject) >= 16 * (1 + 100)


def test_known_noise_is_tried_on_all_images_only_where_it_decides(make_subject: Make) -> None:
    calm = make_subject(Gaussian(0.1), n=16)
    assert "at least" in not_only_randomness(calm).figure


def test_a_cold_start_after_others_is_the_same_attack_on_fewer_images(
    make_subject: Make,
) -> None:
    subject = make_subject(Gaussian(0.1), eps=Fraction(1, 50), n=32)
    main = subject.quick()
    assert attacks.right(main).sum() >= 8
    subject.quick(settings={"restarts": 2}, after=main)
    assert settings_take_effect(subject).state is State.PASS

    silent = make_subject(Silent(), name="idle", eps=Fraction(1, 50), n=32)
    main = silent.quick()
    assert attacks.right(main).sum() >= 8
    silent.quick(settings={"eot": 6}, after=main)
    found = settings_take_effect(silent)
    assert found.state is State.FAIL
    assert "attack.eot" in found.reason
    # What a warm start would change is nothing where nothing went before.
    fresh = replace(silent)
    fresh.quick(settings={"warm": True})
    assert "attack.warm" not in settings_take_effect(fresh).reason

"""Closed forms against scipy, attacks against closed forms, and broken attacks found out."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import linprog, minimize

from bench import cli
from bench.api import Access, Calls, Norm, project, steepest
from bench.calibration import gaps, traps
from bench.calibration.gaps import CASES, NOISE_CASE, applies, measure
from bench.calibration.linear import (
    SHARES,
    largest_gain,
    majority,
    smallest_radius,
    survival,
)
from bench.calibration.purifiers import network
from bench.calibration.report import document, known_answers
from bench.core.defense import Defense
from bench.core.rng import Rng
from bench.core.threat import ThreatModel
from bench.plugins.catalogue import build, catalogue

TWO, FIVE = CASES[0], CASES[1]
SMALL = 60


def tiny(seed, pixels=6):
    generator = torch.Generator().manual_seed(seed)
    v = torch.randn(pixels, generator=generator, dtype=torch.float64)
    x = (1.6 * torch.rand(pixels, generator=generator, dtype=torch.float64) - 0.3).clamp(0, 1)
    return v, x


@pytest.mark.parametrize("eps", [0.05, 0.4, 3.0])
@pytest.mark.parametrize("seed", range(5))
def test_the_best_linf_attack_is_that_of_linear_programming(seed, eps):
    v, x = tiny(seed)
    bounds = [(max(-eps, -p), min(eps, 1 - p)) for p in x.tolist()]
    best = -linprog(-v.numpy(), bounds=bounds).fun
    assert float(largest_gain(v, x, Norm.LINF, eps)) == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("eps", [0.05, 0.4, 1.0, 3.0])
@pytest.mark.parametrize("seed", range(5))
def test_the_best_l2_attack_is_that_of_slsqp(seed, eps):
    v, x = tiny(seed)
    w = v.numpy()
    found = minimize(
        lambda d: -w @ d,
        np.zeros(len(w)),
        jac=lambda d: -w,
        bounds=[(-p, 1 - p) for p in x.tolist()],
        constraints={
            "type": "ineq", "fun": lambda d: eps**2 - d @ d, "jac": lambda d: -2 * d
        },
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-12},
    )  # fmt: skip
    assert found.success
    assert float(largest_gain(v, x, Norm.L2, eps)) == pytest.approx(-found.fun, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 4), st.sampled_from(list(Norm)))
def test_no_legal_image_gains_more(seed, eps, norm):
    v, x = tiny(seed)
    best = float(largest_gain(v, x, norm, eps))
    tries = torch.randn(64, 1, 1, 6, generator=torch.Generator().manual_seed(seed)).double()
    shape = x.reshape(1, 1, 1, 6)
    legal = project(shape + eps * steepest(tries, norm), shape, norm, eps)
    assert float(((legal - shape).flatten(1) @ v).max()) <= best + 1e-9


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 0.3), st.sampled_from(list(Norm)))
def test_the_critical_radius_inverts_the_gain(seed, eps, norm):
    v, x = tiny(seed)
    gain = largest_gain(v, x, norm, eps)
    radius = smallest_radius(v, x, norm, gain)
    assert float(radius) <= eps + 1e-9
    assert float(largest_gain(v, x, norm, float(radius))) == pytest.approx(
        float(gain), abs=1e-9
    )
    assert float(smallest_radius(v, x, norm, torch.tensor(1e3).double())) == float("inf")


@pytest.mark.parametrize("draws", [1, 2, 49, 50])
def test_the_vote_is_binomial(draws):
    p = torch.linspace(0, 1, 21, dtype=torch.float64)
    expected = stats.binom.sf(draws // 2, draws, p.numpy())
    assert majority(p, draws).numpy() == pytest.approx(expected, abs=1e-10)


def test_a_draw_under_noise_is_right_with_the_normal_probability():
    margins = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64)
    found = survival(margins, sigma=0.5, length=torch.full((3,), 4.0).double(), draws=1)
    assert found.numpy() == pytest.approx(stats.norm.cdf(margins.numpy() / 2))


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("norm", list(Norm))
def test_radii_leave_the_wanted_shares_far_from_ties(case, norm):
    problem = case.problem(SMALL)
    for share, eps in zip(SHARES, problem.radii(norm), strict=True):
        best = problem.optimal_margins(norm, float(eps))
        assert float(best.abs().min()) > 2e-3
        assert abs(float((best > 0).double().mean()) - share) < 0.05


@pytest.mark.parametrize("case", [case for case in CASES if not case.sigma], ids=str)
def test_the_classifier_undoes_the_purifier(case):
    problem = case.problem(SMALL)
    defense = Defense(case.purifier, network(problem, case.purifier))
    purified = defense.purify(problem.x, rng=Rng.seeded(0, range(SMALL)))
    straight = problem.x.flatten(1) @ problem.weight.T + problem.bias
    assert defense.classify(purified).detach().numpy() == pytest.approx(
        straight.numpy(), abs=1e-4
    )
    assert (purified.equal(problem.x)) is not case.moves


def gated(name):
    return [
        (name, case, access, norm)
        for case in CASES
        for attack in [build("attacks", name, gaps.budget(name, case))]
        for access in attack.accesses
        for norm in attack.norms
        if applies(attack, case, access) and not gaps.ungated(name, attack, case, access)
    ]


# AutoAttack takes a minute over its 5,000 queries: the command has it, and its own tests.
GATED = [row for name in catalogue("attacks") if name != "autoattack" for row in gated(name)]
# Where a purifier has the gradient of the identity, every access sees the same one. One such
# case and those with another gradient meet each access here, and the closed forms do.
ALIKE = (TWO, NOISE_CASE, *(case for case in CASES if not case.clear))


def in_order(name, case, access, norm):
    """Mark what repeats another row."""
    known = build("attacks", name, gaps.budget(name, case)).accesses
    first = Access.FULL if Access.FULL in known else known[0]
    marks = [pytest.mark.slow] if case in ALIKE and access is not first else []
    return pytest.param(name, case, access, norm, marks=marks)


@pytest.mark.parametrize(
    ("name", "case", "access", "norm"), [in_order(*row) for row in GATED], ids=str
)
def test_a_gated_attack_reaches_the_optimum(name, case, access, norm):
    attack = build("attacks", name, gaps.budget(name, case))
    row = measure(name, attack, case, access, norm, images=SMALL)
    assert row.fault == ""
    assert row.gap <= 1
    assert all(r >= e - 0.01 for r, e in zip(row.reached, row.exact, strict=True))
    assert row.passes


def test_every_attack_with_gradients_is_gated_somewhere():
    names = {row[0] for row in GATED}
    searches = {
        name
        for name in catalogue("attacks")
        if build("attacks", name, {}).accesses[0] in gaps.SEARCHES
    }
    assert names == set(catalogue("attacks")) - searches - {"autoattack"}
    assert gated("autoattack")


@dataclass(frozen=True)
class Ascent:
    """One step along the gradient, ``factor`` radii long: negative goes the wrong way."""

    factor: float = 1.0
    projected: bool = True
    revision: ClassVar[int] = 1
    norms: ClassVar[tuple[Norm, ...]] = (Norm.LINF, Norm.L2)
    accesses: ClassVar[tuple[Access, ...]] = (Access.FULL,)
    unbounded: ClassVar[bool] = False

    def __call__(self, view, x, y, *, threat, rng):
        leaf = x.clone().requires_grad_()
        loss = torch.nn.functional.cross_entropy(view(leaf, rng=rng), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, leaf)
        x_adv = x + self.factor * threat.radius * steepest(gradient, threat.norm)
        return project(x_adv, x, threat.norm, threat.radius) if self.projected else x_adv

    def calls(self, *, stochastic, classes):
        return Calls(backward=1)


@pytest.mark.parametrize("case", [TWO, NOISE_CASE], ids=str)
@pytest.mark.parametrize("factor", [-1.0, 0.0, 0.3])
@pytest.mark.parametrize("norm", list(Norm))
def test_a_broken_attack_has_a_gap(case, factor, norm):
    row = measure("broken", Ascent(factor), case, Access.FULL, norm, images=SMALL)
    assert row.gap > 1
    assert row.fault == ""  # broken, but nothing impossible
    assert not row.passes
    assert "points above the optimum" in gaps.failures([row])[0]


def test_one_linf_step_is_optimal_here():
    row = measure("step", Ascent(), TWO, Access.FULL, Norm.LINF, images=SMALL)
    assert row.gap == 0
    assert row.judged == row.exact


@pytest.mark.parametrize("case", [TWO, NOISE_CASE], ids=str)
def test_an_attack_that_leaves_the_ball_gets_no_credit(case):
    far = Ascent(3.0, projected=False)
    row = measure("far", far, case, Access.FULL, Norm.LINF, images=SMALL)
    assert not row.passes
    assert "images outside ball or box" in row.fault
    assert row.reached[2] > 90 - 10 * bool(case.sigma)
    assert min(r - e for r, e in zip(row.reached, row.exact, strict=True)) >= 0


def test_a_failing_attack_is_a_row():
    row = measure("fails", replace(Ascent(), factor="x"), TWO, Access.FULL, Norm.L2, images=4)
    assert row.gap is None
    assert row.fault.startswith("failed: the attack Ascent failed: TypeError")
    assert "failed: TypeError" in document([known_answers([row])], ORIGIN)


def test_how_likely_a_count_is():
    sure = torch.tensor([1.0, 0.0, 1.0]).double()
    assert [gaps.chance(sure, count) for count in range(4)] == [0, 0, 1, 0]
    # One image of a thousandth is seen once in a thousand tables, whatever the normal law says.
    assert gaps.chance(torch.tensor([0.001, 1.0]).double(), 2) == pytest.approx(0.001)
    coins = torch.full((100,), 0.5).double()
    assert gaps.chance(coins, 55) == pytest.approx(0.368, abs=0.001)
    assert gaps.chance(coins, 73) < 7e-6 < gaps.chance(coins, 72)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([TWO, NOISE_CASE]), st.sampled_from(list(Norm)))
def test_no_attack_beats_the_optimum(seed, case, norm):
    @dataclass(frozen=True)
    class Anything(Ascent):
        def __call__(self, view, x, y, *, threat, rng):
            generator = torch.Generator().manual_seed(seed)
            good = super().__call__(view, x, y, threat=threat, rng=rng)
            wild = good + 0.1 * seed / 10_000 * torch.randn(x.shape, generator=generator)
            return project(wild, x, threat.norm, threat.radius)

    row = measure("any", Anything(), case, Access.FULL, norm, images=20)
    assert row.fault == ""
    assert min(r - e for r, e in zip(row.reached, row.exact, strict=True)) >= -0.01


def test_a_judge_with_a_larger_ball_is_found_out(monkeypatch):
    wide = gaps.judge

    def lenient(defense, x, y, x_adv, *, threat, draws, rng):
        threat = ThreatModel(threat.norm, 2 * threat.eps, threat.access)
        return wide(defense, x, y, x_adv, threat=threat, draws=draws, rng=rng)

    monkeypatch.setattr(gaps, "judge", lenient)

    @dataclass(frozen=True)
    class Far(Ascent):
        def __call__(self, view, x, y, *, threat, rng):
            wider = ThreatModel(threat.norm, threat.eps * 3 / 2, threat.access)
            return super().__call__(view, x, y, threat=wider, rng=rng)

    row = measure("far", Far(), TWO, Access.FULL, Norm.L2, images=SMALL)
    assert "below the lowest possible" in row.fault
    assert not row.passes


def test_a_judge_that_miscounts_is_found_out(monkeypatch):
    honest = gaps.judge

    def generous(*args, **kwargs):
        outcomes = honest(*args, **kwargs)
        return replace(outcomes, robust=torch.ones_like(outcomes.robust))

    monkeypatch.setattr(gaps, "judge", generous)
    for case in (TWO, NOISE_CASE):
        row = measure("step", Ascent(), case, Access.FULL, Norm.LINF, images=SMALL)
        assert "the judge counts 100.0 % where" in row.fault


def test_a_case_is_attacked_on_the_device_and_worked_out_on_the_cpu(monkeypatch):
    """On the meta device in place of a GPU: whatever is not moved there mixes devices."""
    seen = []

    def judged(defense, x, y, x_adv, *, threat, draws, rng):
        seen.extend([x, y, x_adv, rng._images, *defense.parameters()])
        there = torch.zeros(len(y), dtype=torch.bool, device="meta")
        blank = dict.fromkeys(("distance", "clean_votes", "clean_logits", "votes", "logits"), y)
        return gaps.Outcomes(**blank, legal=there, robust=there, clean=there)

    def moved(tensor):
        return torch.zeros(tensor.shape, dtype=tensor.dtype)

    @dataclass(frozen=True)
    class Still(Ascent):
        def __call__(self, view, x, y, *, threat, rng):
            view.classify(x)
            return x

    monkeypatch.setattr(gaps, "judge", judged)
    monkeypatch.setattr(torch.Tensor, "cpu", moved)
    row = measure(
        "still", Still(), TWO, Access.FULL, Norm.LINF, images=6, device=torch.device("meta")
    )
    assert {tensor.device.type for tensor in seen} == {"meta"}
    assert len(row.reached) == len(SHARES)
    assert "failed" not in row.fault


ORIGIN = {
    "command": "bench calibrate", "date": "today", "commit": "abc", "device": "cpu",
    "versions": {"torch": "2"},
}  # fmt: skip


def no_traps(*, workspace):
    """Set none: tests/test_traps.py does."""
    yield from ()
    return []


@pytest.mark.parametrize("factor", [1.0, -1.0])
def test_the_command_writes_and_its_exit_code_says(tmp_path, monkeypatch, capsys, factor):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gaps, "IMAGES", SMALL)
    monkeypatch.setattr(gaps, "CASES", (TWO,))
    monkeypatch.setattr(gaps, "catalogue", lambda kind: {"step": None})
    attack = type("Step", (Ascent,), {"norms": (Norm.LINF,)})(factor)
    monkeypatch.setattr(gaps, "build", lambda kind, name, params: attack)
    monkeypatch.setattr(traps, "spring", no_traps)
    path = tmp_path / "calibration.md"
    monkeypatch.setattr(sys, "argv", ["bench", "calibrate", "--json", f"--output={path}"])
    code = 0
    try:
        cli.main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    said = capsys.readouterr()
    assert code == (0 if factor > 0 else 1)
    assert ("points above the optimum" in said.err) is (factor < 0)
    (row,) = json.loads(said.out)["known_answers"]
    assert row["passes"] is (factor > 0)
    text = path.read_text()
    for word in ("- command: ", "- date: ", "- commit: ", "- seed: 0", "- versions: python"):
        assert word in text
    assert "| step | full | Linf | identity |" in text

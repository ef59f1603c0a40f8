from __future__ import annotations

import logging
import random
import sys
import warnings

import numpy as np
import pyautoattack
import pyautoattack.checks
import pytest
import torch
from attack_toys import Identity, Pull, ball, run, small_problem, streams

from bench.api import Access, AttackWarning, Norm, size
from bench.core.access import view_of
from bench_attacks.autoattack import AutoAttack

pytestmark = pytest.mark.usefixtures("short_autoattack")


class Energy(Pull):
    """A purifier that differentiates something itself, as energy-based ones do."""

    def step(self, x, *, rng):
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad((leaf - 0.5).square().sum() / 2, leaf)
        return x - 0.1 * gradient


class Failing:
    """A view that gives up after some calls."""

    stochastic = False

    def __init__(self, inner):
        self.inner, self.calls = inner, 0

    def classify(self, x):
        return self.inner.classify(x)

    def __call__(self, x, *, rng):
        self.calls += 1
        if self.calls > 20:
            raise RuntimeError("enough")
        return self.inner(x, rng=rng)


def problem(purifier, **sizes):
    return small_problem(purifier, dtype=torch.float32, **sizes)


def flags_of(attack, view, x, y, threat):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        x_adv = attack(view, x, y, threat=threat, rng=streams(len(x)))
    assert {warning.category for warning in caught} == {AttackWarning}
    return x_adv, [str(warning.message) for warning in caught]


@pytest.mark.parametrize(
    ("norm", "eps", "side", "classes"), [(Norm.LINF, 0.03, 5, 10), (Norm.L2, 0.12, 4, 5)]
)
def test_the_same_images_as_the_library_called_by_hand(norm, eps, side, classes):
    defense, x, y = problem(Identity(), images=12, side=side, classes=classes)
    rng, threat = streams(12), ball(norm, eps, Access.TRANSFER)
    ours = run(AutoAttack(), view_of(defense, Access.TRANSFER), x, y, threat, rng)
    trace = sys.gettrace()
    with torch.random.fork_rng():
        library = pyautoattack.AutoAttack(
            defense.classifier, eps=eps, norm=norm.value, seed=rng.integer()
        )
        targets = min(9, classes - 1)
        library.apgd_targeted.n_target_classes = library.fab.n_target_classes = targets
        if side < 5 and norm is Norm.L2:  # its Square divides by zero there
            library.attacks_to_run = ["apgd-ce", "apgd-t", "fab-t"]
        theirs, _ = library.run_standard_evaluation(x, y, batch_size=12)
    sys.settrace(trace)
    assert torch.equal(ours, theirs)
    fallen = defense.classify(ours).argmax(1) != y
    assert 0 < int(fallen.sum()) < 12
    assert torch.equal(ours[~fallen], x[~fallen])


@pytest.mark.parametrize("fails", [False, True])
def test_leaves_no_side_effects_even_when_it_fails(fails):
    defense, x, y = problem(Energy(noise=0.0), images=2, side=2, classes=2)
    logger = logging.getLogger("auto-attack")
    pyautoattack.checks.funcs["backward"] = 3

    def tracer(frame, event, arg):
        return None

    def state():
        numpy_state = np.random.get_state()
        return (
            torch.get_rng_state().tolist(), numpy_state[1].tolist(), random.getstate(),
            dict(pyautoattack.checks.funcs), list(logger.handlers), logger.propagate,
            sys.gettrace(),
        )  # fmt: skip

    before_trace = sys.gettrace()
    sys.settrace(tracer)
    try:
        before = state()
        view, threat = view_of(defense, Access.BPDA), ball(Norm.L2, 0.01, Access.BPDA)
        if fails:
            with pytest.raises(RuntimeError, match="enough"):
                run(AutoAttack(), Failing(view), x, y, threat, streams(2))
        else:
            run(AutoAttack(), view, x, y, threat, streams(2))
        after = state()
    finally:
        sys.settrace(before_trace)
        pyautoattack.checks.funcs["backward"] = 0
    assert before == after


def test_its_warnings_become_flags_and_do_not_stick(capfd, caplog, monkeypatch):
    threat = ball(Norm.L2, 0.05, Access.BPDA)
    sizes = {"images": 2, "side": 2, "classes": 2}
    dynamic, x, y = problem(Energy(noise=0.0), **sizes)
    _, flags = flags_of(AutoAttack(), view_of(dynamic, Access.BPDA), x, y, threat)
    assert flags[0] == f"pyautoattack 0.2.0 standard seed {streams(2).integer()}"
    assert any("dynamic defense" in flag for flag in flags)
    assert [flag for flag in flags if flag.startswith("left out")] == [
        "left out apgd-t: too few classes or pixels",
        "left out square: too few classes or pixels",
    ]
    static, x, y = problem(Identity(), **sizes)
    monkeypatch.setitem(pyautoattack.checks.funcs, "grad", 5)  # as another user may leave it
    _, flags = flags_of(AutoAttack(), view_of(static, Access.BPDA), x, y, threat)
    assert not any("dynamic defense" in flag for flag in flags)
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []  # flags replace the log lines


def test_rand_for_a_stochastic_view_standard_for_another():
    defense, x, y = problem(Pull(steps=1), images=3, side=2, classes=4)
    threat = ball(Norm.LINF, 0.02, Access.BPDA)
    x_adv, flags = flags_of(AutoAttack(), view_of(defense, Access.BPDA), x, y, threat)
    assert flags[0].startswith("pyautoattack 0.2.0 rand seed")
    assert not any("randomized" in flag for flag in flags)
    assert float((x_adv - x).abs().max()) <= 0.02 + 1e-6


def test_noise_differs_from_call_to_call_and_standard_says_so():
    defense, x, y = problem(Pull(noise=0.2), images=3, side=2, classes=2)
    view, threat = view_of(defense, Access.BPDA), ball(Norm.L2, 0.02, Access.BPDA)
    _, flags = flags_of(AutoAttack(version="standard"), view, x, y, threat)
    assert any("randomized defense" in flag for flag in flags)


class Root(Identity):
    """A purifier whose slope is infinite where a pixel is black."""

    def purify(self, x, *, rng):
        return x.pow(0.5)


@pytest.mark.parametrize(("norm", "eps"), [(Norm.L2, 0.5), (Norm.LINF, 0.05)])
def test_an_infinite_slope_gives_images_in_the_ball_and_a_flag(norm, eps):
    defense, x, y = problem(Root(), images=12, side=6)
    x, threat = (x - 0.3).clamp(0, 1), ball(norm, eps, Access.FULL)
    assert 0.2 < float((x == 0).float().mean()) < 0.4
    view = view_of(defense, Access.FULL)
    x_adv, _ = flags_of(AutoAttack(), view, x, y, threat)
    assert float(size(x_adv - x, norm).max()) <= eps + 1e-6
    clean, attacked = (defense.classify(at.pow(0.5)).argmax(1) == y for at in (x, x_adv))
    assert int(attacked.sum()) < int(clean.sum())
    assert "NaN or infinite at" in view.gradients.flag()
    slope = view_of(problem(Identity(), images=12, side=6)[0], Access.FULL)
    flags_of(AutoAttack(), slope, x, y, threat)
    assert slope.gradients.flag() is None


def test_what_the_library_returns_as_nan_is_named_and_left_clean(monkeypatch):
    defense, x, y = problem(Identity(), images=4, side=2, classes=2)
    broken = x.clone()
    broken[1:3, 0, 0, 0] = torch.nan
    monkeypatch.setattr(
        pyautoattack.AutoAttack, "run_standard_evaluation", lambda *a, **o: (broken, y)
    )
    threat = ball(Norm.LINF, 0.1, Access.TRANSFER)
    x_adv, flags = flags_of(AutoAttack(), view_of(defense, Access.TRANSFER), x, y, threat)
    assert torch.equal(x_adv, x)
    assert "pyautoattack returned NaN for 2 images" in flags

"""The libraries of attacks themselves, where they are installed: tox -e libraries."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import warnings
from fractions import Fraction
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.core.access import view_of
from bench.core.defense import Defense
from bench.core.geometry import size
from bench.core.rng import Rng
from bench.core.threat import Norm, ThreatModel
from bench.errors import AttackWarning
from bench.plugins.catalogue import build, parameters
from bench.plugins.libraries import adapter
from bench.plugins.libraries.model import ViewModel
from bench_defenses.gaussian import Gaussian
from bench_defenses.none import Identity

MODULES = {
    "torchattacks": "torchattacks",
    "foolbox": "foolbox",
    "advlib": "adv_lib",
    "art": "art",
}
EPS = {Norm.LINF: Fraction(1, 40), Norm.L2: Fraction(3, 20)}
SHAPE = (1, 8, 8)

# Attacks that shall find what is within reach, with settings that make them quick.
FINDING: dict[str, dict[str, Any]] = {
    "torchattacks:PGD": {"steps": 30, "alpha": 0.003},
    "torchattacks:PGDL2": {"steps": 30, "alpha": 0.02},
    "torchattacks:APGD": {"steps": 30},
    "torchattacks:DeepFool": {},
    "torchattacks:AutoAttack": {"version": "rand"},
    "foolbox:LinfPGD": {"steps": 40},
    "foolbox:L2PGD": {"steps": 40},
    "foolbox:LinfDeepFoolAttack": {},
    "foolbox:L2FMNAttack": {"steps": 50},
    "foolbox:DDNAttack": {"steps": 50},
    "advlib:apgd": {"n_iter": 30, "loss_function": "ce"},
    "advlib:df": {},
    "advlib:ddn": {"steps": 50, "levels": None},
    "advlib:alma": {"num_steps": 100},
    "advlib:pgd_linf": {},
    "art:ProjectedGradientDescent": {"max_iter": 30, "eps_step": 0.01},
    "art:AutoProjectedGradientDescent": {"max_iter": 30, "nb_random_init": 1},
    "art:DeepFool": {"epsilon": 0.02},
    "art:FastGradientMethod": {},
}
# Attacks by queries, with a small budget: they shall stay in the ball and within their cost.
SEARCHING: dict[str, dict[str, Any]] = {
    "torchattacks:Square": {"n_queries": 50},
    "torchattacks:SPSA": {"nb_sample": 8, "max_batch_size": 8},
    "torchattacks:CW": {"steps": 20},
    "torchattacks:FAB": {"steps": 3},
    "foolbox:BoundaryAttack": {"steps": 20},
    "foolbox:HopSkipJumpAttack": {"steps": 2, "max_gradient_eval_steps": 20},
    "foolbox:L2CarliniWagnerAttack": {"steps": 5, "binary_search_steps": 2},
    "foolbox:GaussianBlurAttack": {"steps": 5},
    "advlib:fab": {"n_iter": 3},
    "advlib:fmn": {"steps": 10},
    "advlib:pdpgd": {"num_steps": 10},
    "advlib:tr": {"iter": 5},
    "art:HopSkipJump": {"max_iter": 2, "max_eval": 20, "init_eval": 10},
    "art:BoundaryAttack": {"max_iter": 3, "num_trial": 2, "sample_size": 3},
    "art:SquareAttack": {"max_iter": 10},
    "art:CarliniL2Method": {"max_iter": 2, "binary_search_steps": 2},
    "art:ZooAttack": {"max_iter": 2, "nb_parallel": 4},
}


def installed(library: str) -> Any:
    missing = find_spec(MODULES[library]) is None
    return pytest.mark.skipif(missing, reason=f"{MODULES[library]} is not installed")


def with_marks(names: Any) -> list[Any]:
    return [pytest.param(name, marks=installed(name.partition(":")[0])) for name in names]


class Plane(nn.Module):
    """Two classes on the two sides of a plane, whose distance is known in every norm.

    A third one is never near: some losses rank three.
    """

    def __init__(self) -> None:
        super().__init__()
        weight = torch.randn(64, generator=torch.Generator().manual_seed(0))
        self.weight = nn.Parameter(weight)

    def side(self, x: Tensor) -> Tensor:
        return (x.flatten(1) - 0.5) @ self.weight

    def forward(self, x: Tensor) -> Tensor:
        side = self.side(x)
        return torch.stack((-side, side, 0 * side - 20), dim=1)

    def distance(self, x: Tensor, norm: Norm) -> Tensor:
        """Return the distance (N,) to the plane, as long as the box is far."""
        dual = self.weight.abs().sum() if norm is Norm.LINF else self.weight.norm()
        return self.side(x).abs() / dual


def images(n: int = 12) -> Tensor:
    """Make images at L2 distances up to 0.3 from the plane, on both sides of it."""
    x = 0.05 * torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(1))
    weight = Plane().weight.detach()
    unit = weight / weight.norm()
    flat = x.flatten(1) - (x.flatten(1) @ unit)[:, None] * unit
    return 0.5 + (flat + torch.linspace(-0.3, 0.3, n)[:, None] * unit).reshape(x.shape)


def attacked(
    made: Any, norm: Norm, purifier: Any, x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> tuple[Tensor, ViewModel, list[str]]:
    models = []

    def kept(*args: Any, **options: Any) -> ViewModel:
        models.append(ViewModel(*args, **options))
        return models[-1]

    monkeypatch.setattr(adapter, "ViewModel", kept)
    threat = ThreatModel(norm, EPS[norm], made.accesses[0])
    view = view_of(Defense(purifier, Plane(), seed=0), threat.access)
    rng = Rng.seeded(0, range(len(x)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        x_adv = made(view, x, Plane()(x).argmax(1), threat=threat, rng=rng)
    flags = [str(one.message) for one in caught if one.category is AttackWarning]
    return x_adv, models[-1], flags


@pytest.mark.parametrize("name", with_marks(FINDING))
def test_what_is_in_reach_is_found_and_nothing_else(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = build("attacks", name, FINDING[name])
    x, plane = images(), Plane()
    for norm in made.norms:
        x_adv, *_ = attacked(made, norm, Identity(), x, monkeypatch)
        radius = float(EPS[norm])
        broken = plane(x_adv).argmax(1) != plane(x).argmax(1)
        near = plane.distance(x, norm) < 0.8 * radius
        far = plane.distance(x, norm) > 1.001 * radius
        assert min(int(near.sum()), int(far.sum())) >= 2
        assert bool(broken[near].all())
        assert not bool(broken[far].any())


@pytest.mark.parametrize("name", with_marks(FINDING | SEARCHING))
@pytest.mark.parametrize("purifier", [Identity(), Gaussian(sigma=0.05)], ids=["none", "noise"])
def test_images_stay_in_the_ball_repeat_and_cost_no_more_than_said(
    name: str, purifier: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**(FINDING | SEARCHING)[name], "eot": 2}
    made = build("attacks", name, settings)
    x = images(4)
    for norm in made.norms:
        x_adv, model, _ = attacked(made, norm, purifier, x, monkeypatch)
        again, *_ = attacked(made, norm, purifier, x, monkeypatch)
        assert torch.equal(x_adv, again)
        assert bool((size(x_adv - x, norm) <= float(EPS[norm]) + 1e-6).all())
        assert bool(((x_adv >= 0) & (x_adv <= 1)).all())
        calls = made.calls(stochastic=False, classes=3)
        most = calls.forward + calls.backward - 1
        assert max(model.forward_rows, model.backward_rows) <= most * len(x)
        assert bool(model.backward_rows) == bool(calls.backward)
        assert model.forward_rows > 0


def public(library: str) -> set[str]:
    """Name the attacks that a library offers."""
    file = importlib.import_module(f"bench.plugins.libraries.{library}").LIBRARY
    module = file.load()
    names = {name for name in dir(module) if not name.startswith("_")}
    if library == "torchattacks":
        return set(module.__all__)
    if library == "advlib":
        return {name for name in names if inspect.isfunction(getattr(module, name))}
    base = (
        module.Attack
        if library == "foolbox"
        else importlib.import_module("art.attacks").EvasionAttack
    )
    return {
        name
        for name in names
        if inspect.isclass(found := getattr(module, name))
        and issubclass(found, base)
        and not inspect.isabstract(found)
    }


@pytest.mark.parametrize("library", [pytest.param(x, marks=installed(x)) for x in MODULES])
def test_every_attack_of_a_library_is_known_or_refused_with_a_reason(library: str) -> None:
    file = importlib.import_module(f"bench.plugins.libraries.{library}").LIBRARY
    offered = public(library)
    assert set(file.known) <= offered
    assert not set(file.known) & set(file.refused)
    assert set(file.refused) <= offered
    if library != "art":  # much of it is about sound, text, patches or objects
        assert offered == set(file.known) | set(file.refused)
    for name in file.known:
        params = {"steps": 3} if name == "VirtualAdversarialAttack" else {}
        made = build("attacks", f"{library}:{name}", params)
        assert build("attacks", f"{library}:{name}", parameters(made)) == made
        calls = made.calls(stochastic=True, classes=10)
        assert calls is not None
        assert calls.forward + calls.backward > 1
        assert all(one.name.isidentifier() for one in dataclasses.fields(made))


@installed("foolbox")
@pytest.mark.parametrize("name", ["foolbox:BoundaryAttack", "foolbox:HopSkipJumpAttack"])
def test_an_image_without_a_wrong_start_comes_back_clean_and_the_others_are_attacked(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain noise has a mean of a half, so that what is dark is never mistaken for it."""

    def dark(self: Plane, x: Tensor) -> Tensor:
        return 10 * (0.25 - x.flatten(1).mean(1))

    monkeypatch.setattr(Plane, "side", dark)
    x = torch.cat((torch.full((2, *SHAPE), 0.2), torch.full((2, *SHAPE), 0.6)))
    made = build("attacks", name, {"steps": 3})
    x_adv, _, flags = attacked(made, Norm.L2, Identity(), x, monkeypatch)
    assert torch.equal(x_adv[2:], x[2:])
    assert not torch.equal(x_adv[0], x[0])
    assert any("failed to draw" in flag for flag in flags)

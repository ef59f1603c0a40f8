"""Attacks of other libraries, on small stand-ins for them: the contract and the errors."""

from __future__ import annotations

import dataclasses
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from importlib import import_module
from importlib.metadata import PackageNotFoundError
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.core.geometry import size
from bench.core.rng import Rng
from bench.core.threat import Access, Norm, ThreatModel
from bench.errors import AttackWarning, BenchError, PluginError, UsageError
from bench.plugins.catalogue import build, parameters, plugin
from bench.results.cell import Request
from bench_defenses.gaussian import Gaussian
from bench_defenses.none import Identity

from ..command import TINY, Bench, is_one_clear_message
from . import library_stubs
from .library_stubs import EDITION, STEADY, Linear, images, view

NAMES = list(STEADY)
DISTRIBUTION = {"advlib": "adv-lib", "art": "adversarial-robustness-toolbox"}
EPS = Fraction(1, 10)
THREAT = ThreatModel(Norm.LINF, EPS, Access.FULL)
RNG = Rng.seeded(0, range(3))


@pytest.fixture
def stubs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    yield from library_stubs.install(monkeypatch)


def attacked(made: Any, *, purifier: Any = None, rng: Rng = RNG) -> tuple[Tensor, list[str]]:
    x, y = images()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = made(view(purifier), x, y, threat=THREAT, rng=rng)
    assert all(one.category is AttackWarning for one in caught)
    return found, [str(one.message) for one in caught]


@pytest.mark.usefixtures("stubs")
@pytest.mark.parametrize("name", NAMES)
def test_a_library_takes_the_step_that_is_known_in_closed_form(name: str) -> None:
    x, y = images()
    found, flags = attacked(build("attacks", name, STEADY[name]))
    towards = torch.where(y == 1, -1.0, 1.0).reshape(-1, 1, 1, 1)
    sign = Linear().weight.detach().sign().reshape(1, 1, 4, 4) * towards
    assert torch.allclose(found, (x + float(EPS) * sign).clamp(0, 1), atol=1e-6)
    assert not any("noise" in flag for flag in flags)


@pytest.mark.usefixtures("stubs")
@pytest.mark.parametrize("purifier", [Identity(), Gaussian(sigma=0.1)], ids=["none", "noise"])
@pytest.mark.parametrize("name", NAMES)
def test_a_block_repeats_itself_whatever_else_was_drawn(name: str, purifier: Any) -> None:
    x, _ = images()
    first, flags = attacked(build("attacks", name, {"eot": 2}), purifier=purifier)
    kept = torch.get_rng_state()
    torch.rand(7), np.random.rand(7)  # what others draw changes nothing
    again, _ = attacked(build("attacks", name, {"eot": 2}), purifier=purifier)
    assert torch.equal(first, again)
    other, _ = attacked(build("attacks", name, {}), rng=Rng.seeded(0, range(3, 6)))
    assert not torch.equal(first, other)
    assert bool((size(first - x, Norm.LINF) <= float(EPS) + 1e-6).all())
    distribution = DISTRIBUTION.get(name.partition(":")[0], name.partition(":")[0])
    assert f"attack's noise by block ({distribution} {EDITION})" in flags
    torch.set_rng_state(kept)
    drawn = torch.rand(7)
    torch.set_rng_state(kept)
    attacked(build("attacks", name, {}))
    assert torch.equal(torch.rand(7), drawn), "its draws reach nobody else"


@pytest.mark.usefixtures("stubs")
@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_those_of_the_signature_and_make_the_same_attack(name: str) -> None:
    cls = plugin("attacks", name)
    assert plugin("attacks", name) is cls
    built = build("attacks", name, {})
    params = parameters(built)
    assert json.loads(json.dumps(params)) == params
    assert build("attacks", name, params) == built
    assert json.dumps(parameters(build("attacks", name, params))) == json.dumps(params)
    assert params["library"].endswith(f" {EDITION}")
    assert not {"eps", "ε", "norm", "targeted", "verbose", "batch_size"} & params.keys()
    assert cls.revision == 1
    assert cls.accesses[0] is Access.FULL
    assert cls.unbounded is False
    with pytest.raises(dataclasses.FrozenInstanceError):
        built.eot = 3
    assert (cls.__doc__ or "").count("\n") > 1


@pytest.mark.usefixtures("stubs")
def test_types_come_from_annotations_or_else_from_defaults() -> None:
    art = parameters(
        build("attacks", "art:ProjectedGradientDescent", {"decay": 1, "eps_step": 2})
    )
    assert art == {
        "library": f"adversarial-robustness-toolbox {EDITION}", "eot": 10, "eps_step": 2,
        "decay": 1.0, "max_iter": 100, "num_random_init": 1,
    }  # fmt: skip
    made = build("attacks", "torchattacks:PGD", {"alpha": 1, "steps": 3})
    assert (made.alpha, made.steps) == (1, 3)
    for params in ({"random_start": 2}, {"steps": "many"}, {"alpha": None}, {"eot": 0}):
        with pytest.raises(UsageError, match=f"attack.{next(iter(params))}"):
            build("attacks", "torchattacks:PGD", params)


@pytest.mark.usefixtures("stubs")
@pytest.mark.parametrize(
    ("name", "params", "parts"),
    [
        ("torchattacks:PGD", {"eps": 0.1}, ("attack.eps is no parameter", "--eps")),
        ("advlib:pgd_linf", {"ε": 0.1}, ("attack.ε is no parameter", "--eps")),
        ("art:ProjectedGradientDescent", {"norm": 2}, ("attack.norm", "--norm")),
        ("art:ProjectedGradientDescent", {"batch_size": 2}, ("--shard",)),
        ("foolbox:LinfPGD", {"step": 2}, ("Did you mean 'attack.steps'?",)),
        ("torchattacks:pgd", {}, (f"torchattacks {EDITION}", "Did you mean 'PGD'?")),
        ("torchattacks:EADL1", {}, ("cannot be measured", "Choose another", "PGD")),
        ("torchattacks:FGSM", {}, ("no attack of torchattacks", "Known: PGD")),
        ("torchattacks:PGD", {"library": "torchattacks 1.0"}, (f"torchattacks {EDITION} is",)),
        ("foolbox:", {}, ("no attack of foolbox",)),
    ],
)
def test_what_cannot_be_asked_is_told(
    name: str, params: dict[str, Any], parts: tuple[str, ...]
) -> None:
    with pytest.raises(UsageError) as caught:
        build("attacks", name, params)
    for part in parts:
        assert part in str(caught.value), caught.value
    assert len(str(caught.value)) < 1000


@pytest.mark.usefixtures("stubs")
@pytest.mark.parametrize("name", NAMES)
def test_a_library_that_is_missing_is_told_with_its_command(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = name.partition(":")[0]
    distribution = DISTRIBUTION.get(library, library)
    file = import_module(f"bench.plugins.libraries.{library}").LIBRARY

    def missing(module: str) -> None:
        top = module.partition(".")[0]
        raise ModuleNotFoundError(f"No module named '{top}'", name=top)

    monkeypatch.setattr("bench.plugins.libraries.library.import_module", missing)
    with pytest.raises(UsageError) as caught:
        file.find(name.partition(":")[2])
    assert f"which is not installed. Install it: pip install {distribution}" in str(
        caught.value
    )


@pytest.mark.usefixtures("stubs")
def test_a_library_that_is_broken_is_told_with_what_it_lacks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(name: str) -> None:
        raise ModuleNotFoundError("No module named 'visdom'", name="visdom")

    monkeypatch.setattr("bench.plugins.libraries.library.import_module", fails)
    from bench.plugins.libraries import advlib

    with pytest.raises(PluginError, match=r"adv-lib 9\.9 cannot be imported.*visdom"):
        advlib.LIBRARY.load()

    def unknown(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("bench.plugins.libraries.library.version", unknown)
    assert advlib.LIBRARY.edition() == "adv-lib of unknown version"


@pytest.mark.usefixtures("stubs")
def test_what_a_library_needs_beside_itself_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: object, images: Tensor, labels: Tensor) -> None:
        raise ModuleNotFoundError("No module named 'numba'", name="numba")

    monkeypatch.setattr(library_stubs.TorchattacksPgd, "__call__", fails)
    with pytest.raises(PluginError, match=r"PGD of torchattacks 9\.9 needs numba.*pip install"):
        attacked(build("attacks", "torchattacks:PGD", {}))


def proposing(monkeypatch: pytest.MonkeyPatch, found: Callable[[Tensor], Tensor]) -> Any:
    monkeypatch.setattr(
        library_stubs.TorchattacksPgd, "__call__", lambda self, images, labels: found(images)
    )
    return build("attacks", "torchattacks:PGD", {})


@pytest.mark.usefixtures("stubs")
def test_what_leaves_the_ball_is_projected_and_what_is_inside_stays_to_the_bit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, y = images()
    x[1:, 0, 0, 0] = 0.4
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    inside = (x + 0.03 * noise).clamp(0, 1)
    inside[2, 0, 0, 0] = 1.2345e-5  # where x + (x_adv - x) is not x_adv
    assert not torch.equal(x + (inside - x), inside)

    def found(images: Tensor) -> Tensor:
        shown = inside.clone()
        shown[0] += 5
        shown[1, 0, 0, 0] = -1e-3
        images.fill_(0.5)  # what it is given is its own
        return shown

    made, threat = (
        proposing(monkeypatch, found),
        ThreatModel(Norm.L2, Fraction(1, 2), Access.FULL),
    )
    with pytest.warns(AttackWarning):
        shown = made(view(), x, y, threat=threat, rng=RNG)
    assert torch.equal(shown[2], inside[2])
    assert torch.allclose(size(shown - x, Norm.L2)[0], torch.tensor(0.5))
    assert bool(((shown >= 0) & (shown <= 1)).all())


@pytest.mark.usefixtures("stubs")
def test_images_of_nan_come_back_clean_with_a_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    x, _ = images()

    def found(images: Tensor) -> Tensor:
        images[1, 0, 0, 0] = torch.nan
        return images

    shown, flags = attacked(proposing(monkeypatch, found))
    assert torch.equal(shown, x)
    assert f"torchattacks {EDITION} returned NaN for 1 images" in flags


@pytest.mark.usefixtures("stubs")
def test_a_warning_of_the_library_is_a_flag_and_a_deprecation_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def found(images: Tensor) -> Tensor:
        warnings.warn("the search failed", UserWarning, stacklevel=1)
        warnings.warn("the search failed", UserWarning, stacklevel=1)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        return images

    made = proposing(monkeypatch, found)
    _, flags = attacked(dataclasses.replace(made, alpha=0.05))
    assert flags == ["the search failed"]


@pytest.mark.usefixtures("stubs")
@pytest.mark.parametrize(
    ("name", "params", "said"),
    [
        ("torchattacks:PGD", {"steps": 2, "alpha": 0.01}, "2 steps of alpha 0.01 do not cross"),
        ("torchattacks:PGD", {"alpha": 0.3}, "alpha 0.3 is more than twice eps 0.1"),
        ("foolbox:LinfPGD", {"rel_stepsize": 0.01}, "40 steps of rel_stepsize 0.01"),
        ("foolbox:LinfPGD", {"abs_stepsize": 0.001}, "40 steps of abs_stepsize 0.001"),
        ("torchattacks:PGD", {"alpha": 0.02}, ""),
    ],
)
def test_steps_that_do_not_fit_the_ball_are_flagged(
    name: str, params: dict[str, Any], said: str
) -> None:
    _, flags = attacked(build("attacks", name, {**params, "random_start": False}))
    assert [flag for flag in flags if said in flag] if said else flags == []


@pytest.mark.usefixtures("stubs")
def test_a_ball_of_radius_zero_is_left_alone() -> None:
    x, y = images()
    threat = ThreatModel(Norm.LINF, Fraction(0), Access.FULL)
    made = build("attacks", "torchattacks:PGD", {})
    assert torch.equal(made(view(), x, y, threat=threat, rng=RNG), x)


@pytest.mark.usefixtures("stubs")
def test_costs_are_bounded_by_the_parameters() -> None:
    made = build("attacks", "torchattacks:PGD", {"steps": 7, "eot": 3})
    assert made.calls(stochastic=False, classes=10).backward == 7
    assert made.calls(stochastic=True, classes=10).backward == 21
    assert made.calls(stochastic=True, classes=10).forward == 1


def test_rows_without_a_bound_are_no_cost() -> None:
    from bench.plugins.libraries.adapter import LibraryAttack
    from bench.plugins.libraries.advlib import KNOWN

    @dataclass(frozen=True)
    class Endless(LibraryAttack):
        decrease_factor: float = 1.0
        initial_const: float = 1e-5
        largest_const: float = 20.0
        const_factor: float = 2.0
        max_iterations: int = 10
        known = KNOWN["carlini_wagner_linf"]

    assert Endless("adv-lib", 10).calls(stochastic=False, classes=10) is None
    bounded = Endless("adv-lib", 10, decrease_factor=0.9).calls(stochastic=False, classes=10)
    assert bounded is not None
    assert bounded.backward > 500


def test_art_s_unseeded_generators_repeat_with_the_block() -> None:
    from bench.plugins.libraries.art import seeded_states

    def drawn() -> tuple[float, float]:
        np.random.seed(5)
        with seeded_states():
            return np.random.RandomState().uniform(), np.random.RandomState(3).uniform()

    unseeded = np.random.RandomState
    assert drawn() == drawn()
    assert drawn()[1] == np.random.RandomState(3).uniform()
    assert np.random.RandomState is unseeded


def test_attacks_that_need_three_channels_say_so(
    stubs: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    class TIFGSM(library_stubs.TorchattacksPgd):
        pass

    monkeypatch.setattr(sys.modules["torchattacks"], "TIFGSM", TIFGSM, raising=False)
    stubs()
    with pytest.raises(PluginError, match="three channels, and these have 1"):
        attacked(build("attacks", "torchattacks:TIFGSM", {}))


@pytest.mark.usefixtures("stubs")
def test_a_run_is_a_cell_with_its_library_and_the_next_one_finds_it(bench: Bench) -> None:
    words = ("run", "--defense=none", "--attack=torchattacks:PGD", "--eps=0.3", *TINY, "--json")
    said = bench(*words)
    assert said.code == 0, said
    (row,) = said.rows
    assert row["attack"] == "torchattacks:PGD"
    assert f"attack's noise by block (torchattacks {EDITION})" in row["note"]
    assert "10 steps of alpha 0.00784 do not cross eps 0.3" in row["note"]
    again = bench(*words)
    assert again.rows[0]["date"] == row["date"]
    is_one_clear_message(
        bench(*words[:2], "--attack=torchattacks:PGDD", *TINY), "Did you mean 'PGD'?", code=2
    )
    assert bench("table").code == 0


@pytest.mark.usefixtures("stubs")
def test_another_version_of_a_library_makes_another_cell(
    stubs: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.experiments.prepare import resolve

    def cell() -> Any:
        request = Request.parse(defense="none", attack="torchattacks:PGD", n=1)
        return resolve(request).cell()

    old = cell()
    monkeypatch.setattr("bench.plugins.libraries.library.version", lambda name: "10.0")
    stubs()
    assert cell().key() != old.key()
    with pytest.raises(BenchError, match=r"are those of torchattacks 9\.9, but .* 10\.0 is"):
        resolve(old.request())

"""Plans: lists of names whose product is a matrix."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.core.threat import Access, Norm
from bench.errors import UsageError
from bench.experiments.plan import Plan, read_plan
from bench.experiments.plan_faults import all_faults

FOLDER = Path(__file__).resolve().parents[2] / "plans"
PLANS = sorted(
    path for folder in (".", "tune", "ablation") for path in FOLDER.glob(f"{folder}/*.yaml")
)
SMALL: dict[str, Any] = {"defenses": "none", "attacks": "noise", "threats": {"eps": "0.1"}}


def plan(**lists: Any) -> Plan:
    return Plan.model_validate({**SMALL, **lists})


def written(tmp_path: Path, **lists: Any) -> Plan:
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump({**SMALL, **lists}, sort_keys=False))
    return read_plan(path)


def test_one_of_each_is_one_request_with_the_defaults_of_run() -> None:
    (request,) = plan().requests()
    assert (request.defense, request.attack, request.dataset) == ("none", "noise", "digits")
    assert (request.classifier, request.norm, request.eps) == (
        "small_cnn",
        Norm.LINF,
        Fraction(1, 10),
    )
    assert request.access is None
    assert (request.n, request.seed, request.draws, request.shard) == (200, 0, 50, 100)


@pytest.mark.parametrize(
    ("names", "count"),
    [("digits", 200), ("mnist", 500), (["digits", "mnist"], 500)],
)
def test_only_digits_take_fewer_images_where_no_number_is_given(names: Any, count: int) -> None:
    assert {request.n for request in plan(datasets=names).requests()} == {count}
    assert {request.n for request in plan(datasets=names, n=7).requests()} == {7}


@settings(deadline=None, max_examples=25)
@given(*[st.integers(1, 3)] * 6)
def test_the_product_counts(
    defenses: int, attacks: int, threats: int, datasets: int, classifiers: int, seeds: int
) -> None:
    requests = plan(
        defenses=[f"d{i}" for i in range(defenses)],
        attacks=[f"a{i}" for i in range(attacks)],
        threats=[{"eps": f"{i}/255"} for i in range(threats)],
        datasets=[f"s{i}" for i in range(datasets)],
        classifiers=[f"c{i}" for i in range(classifiers)],
        seeds=list(range(seeds)),
    ).requests()
    assert len(requests) == defenses * attacks * threats * datasets * classifiers * seeds
    assert len({str(request) for request in requests}) == len(requests)


def test_a_grid_is_one_plugin_of_each_combination() -> None:
    ebm = {
        "name": "ebm",
        "set": {"noise": 0.01, "training": {"lr": 0.1}},
        "grid": {"training.seed": [1, 2], "steps": [5, 10]},
    }
    requests = plan(defenses=["none", ebm], attacks={"name": "pgd", "grid": {"steps": [3]}})
    wanted = [
        {"noise": 0.01, "training": {"lr": 0.1, "seed": seed}, "steps": steps}
        for seed in (1, 2)
        for steps in (5, 10)
    ]
    assert [request.settings["defense"] for request in requests.requests()] == [{}, *wanted]
    assert all(request.settings["attack"] == {"steps": 3} for request in requests.requests())


def test_a_grid_beats_what_is_set() -> None:
    (request,) = plan(
        defenses={"name": "ebm", "set": {"steps": 5, "training": 3}, "grid": {"steps": [7]}}
    ).requests()
    assert request.settings["defense"] == {"steps": 7, "training": 3}


def test_set_takes_the_paths_that_a_grid_and_the_command_line_take() -> None:
    given = {"training.lr": 0.1, "training": {"seed": 3}, "training.width": 8}
    (request,) = plan(defenses={"name": "ebm", "set": given}).requests()
    assert request.settings["defense"] == {"training": {"lr": 0.1, "seed": 3, "width": 8}}


def test_faults_in_a_grid_are_told_with_all_others() -> None:
    defense = {"name": "gaussian", "grid": {"sigma": [0.1, -1], "sgima": [1]}}
    faults = plan(defenses=defense, datasets="mnits").faults()
    assert len(faults) == 3
    assert any("sgima" in fault for fault in faults)
    assert any("mnits" in fault for fault in faults)
    with pytest.raises(ValueError, match="at least 1 item"):
        plan(defenses={"name": "gaussian", "grid": {"sigma": []}})


def test_accesses_multiply_but_an_attacks_own_access_goes_first() -> None:
    requests = plan(
        attacks=["pgd", {"name": "autoattack", "access": "transfer"}],
        accesses=["full", "bpda"],
    ).requests()
    assert [(request.attack, request.access) for request in requests] == [
        ("pgd", Access.FULL),
        ("pgd", Access.BPDA),
        ("autoattack", Access.TRANSFER),
    ]


@pytest.mark.parametrize(
    "lists",
    [{"defenses": ["none", "none"]}, {"seeds": [0, 0]},
     {"attacks": ["noise", {"name": "noise", "set": {}}]}],
    ids=lambda lists: next(iter(lists)),
)  # fmt: skip
def test_what_is_asked_twice_is_done_once(lists: dict[str, Any]) -> None:
    assert len(plan(**lists).requests()) == 1


def test_the_same_attack_with_other_parameters_is_another_request() -> None:
    requests = plan(attacks=[{"name": "noise", "set": {"tries": t}} for t in (1, 2)]).requests()
    assert [request.settings["attack"] for request in requests] == [{"tries": 1}, {"tries": 2}]


@pytest.mark.parametrize(
    ("eps", "exact"),
    [(0.3, Fraction(3, 10)), (0.1, Fraction(1, 10)), ("8/255", Fraction(8, 255)),
     (1, Fraction(1)), (float("inf"), None), ("inf", None)],
)  # fmt: skip
def test_a_radius_is_read_from_yaml_exactly(
    tmp_path: Path, eps: str | float, exact: Fraction | None
) -> None:
    (request,) = written(tmp_path, threats={"norm": "Linf", "eps": eps}).requests()
    assert request.eps == exact


def test_one_radius_in_two_spellings_is_one_request() -> None:
    radii = [{"eps": "8/255"}, {"eps": "16/510"}, {"eps": "0.1"}, {"eps": "1/10"}]
    requests = plan(threats=radii).requests()
    assert [request.eps for request in requests] == [Fraction(8, 255), Fraction(1, 10)]


@pytest.mark.parametrize(
    "lists",
    [{"n": 0}, {"draws": 0}, {"shard": -1}, {"seeds": [-1]}, {"accesses": "white"},
     {"threats": {"eps": "8"}}, {"threats": {"eps": "0.1", "norm": "L1"}}],
    ids=str,
)  # fmt: skip
def test_what_no_cell_can_be_is_refused(tmp_path: Path, lists: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="the plan has a fault"):
        written(tmp_path, **lists)


def test_faults_are_counted_and_said_once_each(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        written(
            tmp_path,
            defenses=["none", "jpeg"],
            threats=[{"eps": "8"}, {"eps": "abc"}, {"eps": "0.1", "norm": "L1"}],
        )
    lines = str(caught.value).splitlines()
    assert lines[0] == "the plan has 3 faults:"
    assert len(lines) == 4
    assert str(all_faults(["x", "x"])).splitlines() == ["the plan has a fault:", "  - x"]


@pytest.mark.parametrize("path", PLANS, ids=[path.stem for path in PLANS])
def test_a_shipped_plan_resolves_and_has_no_impossible_cell(path: Path) -> None:
    from bench.experiments.matrix import resolve_plan

    plan = read_plan(path)
    resolved = resolve_plan(plan)
    assert len(resolved) == len(plan.requests()) > 1
    wrong = {f"{p.request.defense}/{p.request.attack}": p.impossible for p in resolved}
    allowed = {"jpeg/pgd"}  # the smoke plan shows a skipped row on purpose
    assert {pair for pair, why in wrong.items() if why} <= allowed

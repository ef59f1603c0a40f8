"""The cost that --dry-run announces bounds what a run counts."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from bench.experiments.attack_order import cheaper_attacks, estimate
from bench.experiments.matrix import evaluate, ordered
from bench.experiments.plan import Plan
from bench.experiments.prepare import resolve
from bench.results.cell import Request
from bench.results.progress import finish
from bench.results.store import Store
from bench.results.workspace import Workspace

SETTINGS: dict[str, Any] = {
    "classifier": {"training": {"epochs": 1}},
    "ebm": {"steps": 2, "training": {"iterations": 2, "bank": 8}},
    "noise": {"tries": 3, "eot": 2},
    "pgd": {"steps": 3, "eot": 2},
    "apgd": {"steps": 3, "eot": 2, "surrogate": 2},
    "apgd_t": {"targets": 3, "steps": 12, "eot": 2, "surrogate": 2},
    "bpda_eot": {"steps": 3, "eot": 2},
    "adaptive": {"steps": 3, "eot": 2},
    "rays": {"queries": 5, "eot": 2},
    "square": {"queries": 5, "eot": 2},
    "autoattack": {"version": "rand"},
}
PAIRS = [
    ("none", "noise", "query"), ("none", "pgd", "full"), ("gaussian", "noise", "query"),
    ("ebm", "noise", "query"), ("ebm", "pgd", "transfer"), ("ebm", "pgd", "bpda"),
    ("ebm", "pgd", "full"), ("ebm", "bpda_eot", "bpda"), ("ebm", "adaptive", None),
    ("ebm", "square", "query"), ("jpeg", "pgd", "bpda"), ("none", "autoattack", "full"),
    ("ebm", "apgd", "bpda"), ("ebm", "apgd", "full"),
    ("ebm", "apgd_t", "full"), ("ebm", "apgd_t", "bpda"), ("ebm", "rays", "label"),
]  # fmt: skip


def request(defense: str, attack: str, access: str | None) -> Request:
    return Request.parse(
        defense=defense,
        attack=attack,
        access=access,
        eps="0.02",
        n=4,
        draws=3,
        settings={
            "classifier": SETTINGS["classifier"],
            "defense": SETTINGS.get(defense, {}),
            "attack": SETTINGS[attack],
        },
    )


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    root = tmp_path_factory.mktemp("cost")
    return Workspace(Store(root / "results"), root, root, torch.device("cpu"))


@pytest.mark.usefixtures("short_autoattack")
@pytest.mark.parametrize(
    ("defense", "attack", "access"), PAIRS, ids=["-".join(map(str, pair)) for pair in PAIRS]
)
def test_a_run_costs_at_most_what_was_announced(
    workspace: Workspace, defense: str, attack: str, access: str | None
) -> None:
    asked = request(defense, attack, access)
    bound = estimate(resolve(asked))
    key = finish(evaluate(asked, workspace=workspace))
    found = json.loads((workspace.store.cell(key) / "provenance.json").read_text())
    for who in ("attack", "judge"):
        counted = {name: rows / asked.n for name, rows in found[f"{who} passes"].items()}
        assert set(counted) <= set(bound[who]), "nothing runs that was not announced"
        for name, rows in counted.items():
            assert rows <= bound[who][name], name
    # A bound that says nothing is useless: the judge never leaves early.
    judged = {name: rows / asked.n for name, rows in found["judge passes"].items() if rows}
    steps = 2  # the first of them is shared by the three draws
    saved = {name: (steps - 1 + 1 / 3) / steps for name in judged if "energy" in name}
    assert judged == {
        name: pytest.approx(rows * saved.get(name, 1)) for name, rows in bound["judge"].items()
    }


def test_more_of_everything_costs_more() -> None:
    def total(**attack: int) -> int:
        asked = Request.parse(
            defense="ebm", attack="pgd", access="full", settings={"attack": attack}
        )
        return sum(estimate(resolve(asked))["attack"].values())

    assert total(steps=20, eot=2) > total(steps=10, eot=2)
    assert total(steps=10, eot=4) > total(steps=10, eot=2)
    assert total(steps=10, eot=2, restarts=2) == 2 * total(steps=10, eot=2)


def test_a_transfer_attack_never_pays_for_the_purifier() -> None:
    asked = Request.parse(defense="ebm", attack="pgd", access="transfer")
    assert set(estimate(resolve(asked))["attack"]) == {
        "classifier forward",
        "classifier backward",
    }


def test_a_deterministic_defense_is_judged_by_one_draw() -> None:
    judge = {
        name: estimate(resolve(Request.parse(defense=name, attack="noise", draws=50)))["judge"]
        for name in ("none", "gaussian")
    }
    assert judge["none"]["classifier forward"] == 2
    assert judge["gaussian"]["classifier forward"] == 100


@pytest.mark.parametrize(
    ("ladder", "order"),
    [
        (True, ["autoattack", "noise", "pgd"]),  # cheap first, after what all purifiers share
        ("listed", ["pgd", "noise", "autoattack"]),
        (False, ["pgd", "noise", "autoattack"]),
    ],
)
def test_a_ladder_begins_with_what_is_cheap_or_keeps_the_order_of_the_plan(ladder, order):
    attacks = [
        {"name": "pgd", "set": {"steps": 50}},
        {"name": "noise", "set": {"tries": 2}},
        {"name": "autoattack", "access": "transfer"},
    ]
    content = {"defenses": "gaussian", "attacks": attacks, "threats": {"eps": "0.1"}}
    plan = Plan.model_validate({**content, "ladder": ladder})
    assert [one.request.attack for one in ordered(plan)] == order
    after = cheaper_attacks(plan, ordered(plan))
    assert after == (
        [[], [0], [0, 1]] if ladder is True else [[], [0], []] if ladder else [[]] * 3
    )

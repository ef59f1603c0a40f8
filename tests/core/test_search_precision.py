"""Cells that are searched in low precision: the judge decides in float32, and rows say so."""

from __future__ import annotations

import dataclasses
import json
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from bench.api import Access, Rng
from bench.core.defense import Defense
from bench.core.passes import count_passes
from bench.core.precision import lowered
from bench.evaluation.judge import judge
from bench.evaluation.run import Prepared
from bench.experiments.plan import Plan
from bench.plugins.catalogue import build, catalogue
from bench.results.cell import Search
from bench.results.workspace import Workspace
from bench_attacks.pgd import Pgd
from bench_defenses.none import Identity

from ..cells import about, classifier, prepared, proposals, rows
from ..command import TINY, Bench, is_one_clear_message
from .test_precision import LOW, gradient, shipped

# --- cells ---------------------------------------------------------------------------------


def searching(made: Prepared) -> Prepared:
    cell = dataclasses.replace(made.cell, search=Search.BFLOAT16)
    return dataclasses.replace(made, cell=cell)


def test_the_judge_decides_in_float32(workspace: Workspace) -> None:
    from safetensors.torch import load_file

    made = searching(prepared(n=12, shard=12, eps=Fraction(4, 100)))
    found = rows(made, workspace)
    (path,) = proposals(workspace)
    images = made.pixels.images(0, 12)
    x_adv = load_file(path)["x_adv"]

    def logits(defense: Defense) -> Any:
        return judge(
            defense, images.x, images.y, x_adv, threat=made.cell.threat,
            draws=made.cell.draws, rng=Rng.seeded(0, images.indices).fork("judge"),
        )  # fmt: skip

    again = logits(made.defense)
    for name in ("votes", "clean_votes", "logits", "clean_logits"):
        assert np.array_equal(np.stack(list(found[name])), getattr(again, name).numpy()), name
    assert found["robust"].tolist() == again.robust.tolist()
    assert 0 < found["robust"].sum() < found["clean"].sum()
    low = logits(lowered(made.defense, LOW))  # else it would not matter who judges
    assert not np.array_equal(np.stack(list(found["logits"])), low.logits.numpy())


@pytest.mark.parametrize("access", [Access.FULL, Access.BPDA, Access.TRANSFER])
def test_the_search_sees_low_networks_and_counts_their_passes(
    access: Access, workspace: Workspace
) -> None:
    """Where no image falls both searches make the same passes, on other images."""
    one = prepared(attack=Pgd(steps=3, eot=2), access=access, n=4)
    one = dataclasses.replace(one, defense=Defense(shipped().purifier, classifier()))
    other = searching(one)
    rows(one, workspace)
    rows(other, workspace)
    first, second = proposals(workspace)
    assert first.read_bytes() != second.read_bytes()
    costs = [about(made, workspace) for made in (one, other)]
    assert costs[0]["judge passes"] == costs[1]["judge passes"]
    assert costs[0]["attack passes"].keys() == costs[1]["attack passes"].keys()
    assert ("energy forward" in costs[1]["attack passes"]) == (access is not Access.TRANSFER)


def test_passes_of_one_gradient_are_counted_alike() -> None:
    whole = shipped()
    counts = []
    for defense in (whole, lowered(whole, LOW)):
        with count_passes(defense.networks()) as passes:
            gradient(defense)
        counts.append(dict(passes))
    assert counts[0] == counts[1]
    assert counts[0]["energy backward"] > 0


QUICK = {"steps": 3, "eot": 2, "tries": 3, "queries": 20, "restarts": 1}
ATTACKS = sorted(catalogue("attacks"))


def quick(name: str) -> Any:
    known = {field.name for field in dataclasses.fields(build("attacks", name, {}))}
    chosen = {field: value for field, value in QUICK.items() if field in known}
    return build("attacks", name, chosen)


@pytest.mark.usefixtures("short_autoattack")
@pytest.mark.parametrize(
    ("name", "access"),
    [(name, access) for name in ATTACKS for access in quick(name).accesses],
    ids=str,
)
def test_every_attack_searches_in_low_precision(
    name: str, access: Access, workspace: Workspace
) -> None:
    made = searching(prepared(Identity(), quick(name), name="none", access=access, n=2))
    found = rows(made, workspace)
    assert found["legal"].all()
    assert len(found) == 2


def test_a_surrogate_is_of_the_low_networks(workspace: Workspace) -> None:
    attack = build("attacks", "apgd", {"steps": 4, "eot": 2, "surrogate": 2})
    assert rows(searching(prepared(attack=attack, n=4)), workspace)["legal"].all()


# --- commands and plans --------------------------------------------------------------------

RUN = ("run", "--defense=gaussian", "--attack=pgd", "--set=attack.steps=2", "--eps=0.3", *TINY)


def test_a_cell_says_how_it_was_searched_and_is_judged_again(bench: Bench) -> None:
    dry = json.loads(bench(*RUN, "--search=bfloat16", "--dry-run", "--json").out)
    assert dry["cell"]["search"] == "bfloat16"
    assert "search" not in json.loads(bench(*RUN, "--dry-run", "--json").out)["cell"]

    (plain,) = bench(*RUN, "--json").rows
    (low,) = bench(*RUN, "--search=BFloat16", "--json").rows
    assert low["key"] != plain["key"]
    assert "search=bfloat16" in low["settings"].split()
    assert "search" not in plain["settings"]
    assert bench("verify", "--votes").code == 0
    said = bench("judge", low["key"], "--draws=5", "--json")
    assert said.code == 0, said
    new = json.loads(said.out)["rows"][-1]
    assert new["draws"] == 5
    assert "search=bfloat16" in new["settings"].split()

    text = bench("table", "--worst-case", "--format=md").out
    assert text.count("search=bfloat16") == 4, text  # two cells and their worst cases
    rows_of_csv = bench("table", "--worst-case", "--format=csv").out
    notes = ("pgd, pgd search=bfloat16", "pgd search=bfloat16, pgd")
    assert any(f"minimum per image over {note}" in rows_of_csv for note in notes)


def test_a_report_names_the_search(bench: Bench) -> None:
    assert bench(*RUN, "--search=bfloat16").code == 0
    page = bench("report", "--defense=gaussian", "--eps=0.3").out
    assert page.count("search bfloat16") == 1


def test_cells_of_one_search_are_compared(bench: Bench) -> None:
    other = ("run", "--defense=none", *RUN[2:])
    for words in ((*RUN, "--search=bfloat16"), other):
        assert bench(*words).code == 0
    said = bench("compare", "gaussian", "none")
    is_one_clear_message(said, "share no attack", "search=bfloat16", code=2)
    assert bench(*other, "--search=bfloat16").code == 0
    said = bench("compare", "gaussian", "none")
    assert said.code == 0, said
    assert "search=bfloat16" in said.out


def test_a_precision_that_is_none_is_refused(bench: Bench) -> None:
    said = bench(*RUN, "--search=float16")
    is_one_clear_message(said, "'float16'", "Known: bfloat16, float32", code=2)


def plan(**changes: Any) -> Plan:
    return Plan(defenses="none", attacks="noise", threats={"eps": "0.1"}, **changes)


def test_a_plan_has_a_search() -> None:
    assert [one.search for one in plan(search="bfloat16").requests()] == [Search.BFLOAT16]
    assert [one.search for one in plan().requests()] == [Search.FLOAT32]
    with pytest.raises(ValidationError, match=r"'half'.*Known: bfloat16, float32"):
        plan(search="half")

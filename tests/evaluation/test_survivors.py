"""A ladder: the same minimum per image as all attacks on all images, for less."""

from __future__ import annotations

import csv
import io
import json
import shutil
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from bench.core.protocols import View
from bench.core.rng import Rng
from bench.core.threat import Access, ThreatModel
from bench.errors import StoreError
from bench.evaluation.run import Prepared
from bench.evaluation.survivors import best_before, survivors_of
from bench.results.table import collect, join, with_worst_case
from bench.results.workspace import Workspace
from bench_attacks.apgd import Apgd
from bench_attacks.noise import Noise
from bench_attacks.pgd import Pgd

from ..cells import assert_equal, at, prepared, proposals, rows, stop_after
from ..command import Bench, is_one_clear_message, runs

EPS = Fraction(12, 100)
N = 24


def attacks_in_order(warm: bool = False) -> list[tuple[Any, Access]]:
    return [
        (Noise(tries=5, eot=2), Access.QUERY),
        (Pgd(steps=3, eot=2), Access.BPDA),
        (Apgd(steps=4, eot=2, warm=warm), Access.FULL),
        (Pgd(steps=4, eot=2, loss="margin"), Access.FULL),
    ]


def made(attack: Any, access: Access, after: tuple[str, ...] = ()) -> Prepared:
    # float64, so that a batch of another size does not round otherwise
    one = prepared(
        None, attack, access=access, eps=EPS, n=N, shard=8, dtype=torch.float64, draws=9
    )
    return replace(one, cell=replace(one.cell, after=after))


def climb(workspace: Workspace, *, warm: bool = False) -> list[Prepared]:
    """Run all attacks, each on what those before it left."""
    done: list[Prepared] = []
    for attack, access in attacks_in_order(warm):
        one = made(attack, access, tuple(before.cell.key() for before in done))
        rows(one, workspace)
        done.append(one)
    return done


def outcomes(cells: list[Prepared], workspace: Workspace) -> list[pd.DataFrame]:
    return [pd.read_parquet(workspace.store.outcomes(one.cell.key())) for one in cells]


def test_survivors_first_gives_the_same_minimum_per_image(tmp_path: Path) -> None:
    ladder, everything = at(tmp_path / "ladder"), at(tmp_path / "all")
    climbed = outcomes(climb(ladder), ladder)
    whole = [rows(made(attack, access), everything) for attack, access in attacks_in_order()]

    one, other = join([f for f in climbed if len(f)]), join(whole)
    assert_equal(one[["clean", "robust"]], other[["clean", "robust"]])
    assert 0 < one["robust"].sum() < N  # otherwise there was nothing to tell apart
    assert sum(map(len, climbed)) < sum(map(len, whole))


def test_each_attack_is_given_exactly_what_is_left(tmp_path: Path) -> None:
    workspace = at(tmp_path)
    left = set(range(N))
    for frame in outcomes(climb(workspace), workspace):
        assert set(frame["index"]) == left
        left &= set(frame["index"][frame["robust"]])


def test_a_killed_attack_ends_with_the_same_rows(tmp_path: Path) -> None:
    whole, killed = at(tmp_path / "whole"), at(tmp_path / "killed")
    cells = climb(whole, warm=True)
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    last = cells[2]
    shutil.rmtree(killed.store.cell(last.cell.key()))
    shutil.rmtree(killed.store.proposal(last.cell.proposal_key(), 0, 0).parent)
    stop_after(last, killed, 1)
    assert_equal(rows(last, killed), outcomes([last], whole)[0])


def test_a_warm_start_is_the_image_that_fewest_draws_saw_right(tmp_path: Path) -> None:
    workspace = at(tmp_path)
    cells = climb(workspace)[:2]
    keys = tuple(one.cell.key() for one in cells)
    warm = made(Apgd(), Access.FULL, keys)
    left = survivors_of(warm.cell, store=workspace.store)
    assert left
    images = warm.pixels.images(0, 8)
    start = best_before(warm.cell, images, [(0, 8)], store=workspace.store)

    for row in range(8):
        shares, seen = [], []
        for one, frame in zip(cells, outcomes(cells, workspace), strict=True):
            block = frame[frame["index"] < 8].reset_index(drop=True)
            found = block.index[block["index"] == row]
            if len(found):
                votes, label = block["votes"][found[0]], block["label"][found[0]]
                shares.append(votes[label] / votes.sum())
                path = workspace.store.proposal(one.cell.proposal_key(), 0, 8)
                seen.append(load_file(path)["x_adv"][found[0]])
        best = min(range(len(shares)), key=lambda k: shares[k])
        assert torch.equal(start[row], seen[best].to(start))


@dataclass(frozen=True)
class Echo(Apgd):
    """Proposes its start, the clean image where it gets none."""

    def __call__(
        self,
        view: View,
        x: Tensor,
        y: Tensor,
        *,
        threat: ThreatModel,
        rng: Rng,
        start: Tensor | None = None,
    ) -> Tensor:
        return x if start is None else start


@pytest.mark.parametrize("warm", [True, False])
def test_an_attack_begins_warm_where_it_wants_to(warm: bool, tmp_path: Path) -> None:
    workspace = at(tmp_path)
    before = climb(workspace)[1]
    echo = made(Echo(warm=warm), Access.FULL, (before.cell.key(),))
    found = rows(echo, workspace).set_index("index")["distance"]
    start = outcomes([before], workspace)[0].set_index("index")["distance"]
    expected = start.loc[found.index] if warm else 0 * found
    assert found.tolist() == expected.tolist()
    assert start.min() > 0


def test_a_warm_start_without_images_says_how_to_get_them(tmp_path: Path) -> None:
    workspace = at(tmp_path)
    cells = climb(workspace)[:1]
    for path in proposals(workspace):
        path.unlink()
    warm = made(Apgd(steps=7), Access.FULL, (cells[0].cell.key(),))
    with pytest.raises(
        StoreError, match=r"needs the images of cell .* Delete the cell's folder"
    ):
        rows(warm, workspace)


def test_nothing_left_to_attack_is_a_finished_cell(tmp_path: Path) -> None:
    workspace = at(tmp_path)
    strong = prepared(None, Pgd(steps=10, eot=2, loss="margin"), eps=Fraction(1), n=8, shard=4)
    assert not rows(strong, workspace)["robust"].any()
    after = replace(strong, cell=replace(strong.cell, after=(strong.cell.key(),)))
    assert len(rows(after, workspace)) == 0
    assert workspace.store.done(after.cell)
    table = with_worst_case(collect(workspace.store), workspace.store)
    row = table[table["key"] == after.cell.key()].iloc[0]
    assert (row["robust"], row["attacked"], row["state"]) == (0.0, 0, "done")
    assert table[table["attack"] == "worst case"]["robust"].item() == 0.0


PLAN = """
datasets: digits
classifiers: {name: small_cnn, set: {training: {epochs: 1}}}
defenses: [gaussian, none]
attacks:
  - {name: pgd, access: full, set: {steps: 5, eot: 2}}
  - {name: noise, set: {tries: 1, eot: 1}}
  - {name: autoattack, access: transfer}
threats: {norm: Linf, eps: 0.2}
n: 6
draws: 5
ladder: true
sequential: true
"""


def test_votes_of_a_ladder_are_taken_again(bench: Bench) -> None:
    """Also where an attack was given survivors, or found nothing left to attack."""
    Path("plan.yaml").write_text(PLAN.replace("eps: 0.2", "eps: 0.5"))
    assert bench("matrix", "plan.yaml").code == 0
    assert "0" in {row["attacked"] for row in runs(Path())}
    said = bench("verify", "--votes")
    assert said.code == 0, said
    assert "6 finished cells in results: 6 ok" in said.out


def test_a_plan_climbs_cheap_attacks_first(bench: Bench) -> None:
    Path("plan.yaml").write_text(PLAN)
    said = bench("matrix", "plan.yaml")
    assert said.code == 0, said
    planned = json.loads(bench("matrix", "plan.yaml", "--dry-run", "--json").out)
    assert all(cell["done"] for cell in planned), "the keys of a dry run are those of the run"
    assert bench("matrix", "plan.yaml", "--dry-run").out.endswith("\n6 cells, 6 of them done\n")
    order = [line.split() for line in said.out.splitlines() if line.startswith("[")]
    assert [(words[2], words[4]) for words in order] == [
        ("gaussian", "autoattack"), ("gaussian", "noise"), ("gaussian", "pgd"),
        ("none", "autoattack"), ("none", "noise"), ("none", "pgd"),
    ]  # fmt: skip
    found = {(row["defense"], row["attack"]): row for row in runs(Path())}
    left = 6.0
    for attack in ("autoattack", "noise", "pgd"):
        row = found["gaussian", attack]
        assert float(row["attacked"]) == (6 if attack == "autoattack" else round(left))
        left = float(row["robust"]) * 6 / 100
        assert row["judging"] == "sequential"
    before = [
        path.stat().st_mtime_ns for path in sorted(Path("results/cells").rglob("*.parquet"))
    ]
    assert bench("matrix", "plan.yaml").code == 0
    after = [
        path.stat().st_mtime_ns for path in sorted(Path("results/cells").rglob("*.parquet"))
    ]
    assert before == after


def test_a_dry_run_leaves_out_what_was_found_to_be_impossible(bench: Bench) -> None:
    """`gaussian` has no coarser process, which is known once it was asked for one."""
    attack = "{name: apgd, access: full, set: {steps: 1, eot: 1, surrogate: 2}}"
    plan = PLAN.replace("  - {name: noise", f"  - {attack}\n  - {{name: noise")
    Path("plan.yaml").write_text(plan.replace("ladder: true", "ladder: listed"))
    bench("matrix", "plan.yaml")
    planned = json.loads(bench("matrix", "plan.yaml", "--dry-run", "--json").out)
    assert sum("impossible" in cell for cell in planned) == 2
    assert all(cell["done"] for cell in planned if "impossible" not in cell)
    found = {row["key"] for row in runs(Path()) if row["state"] == "done"}
    assert {cell["key"] for cell in planned if "impossible" not in cell} == found


def test_survivors_alone_are_no_defense_s_accuracy(bench: Bench) -> None:
    Path("plan.yaml").write_text(PLAN)
    assert bench("matrix", "plan.yaml").code == 0
    table = runs(Path())
    pgd = {row["defense"]: row["key"] for row in table if row["attack"] == "pgd"}
    refused = bench("compare", pgd["gaussian"], pgd["none"])
    is_one_clear_message(
        refused, "cheaper attacks left: they say nothing of the others", code=2
    )
    both = bench("compare", "gaussian", "none", "--difference=3", "--json")
    assert both.code == 0, both
    found = json.loads(both.out)
    assert found["n"] == 6
    assert found["claimed_images_needed"]["unpaired"] > 100

    judged = bench("judge", pgd["gaussian"], "--defense=none")
    is_one_clear_message(judged, "has to be judged on all images", code=2)
    # Without the cell on all images there is no worst case, rather than one of survivors.
    for row in table:
        if (row["defense"], row["attack"]) == ("gaussian", "autoattack"):
            shutil.rmtree(Path("results/cells") / row["key"])
    worst = bench("table", "--worst-case", "--format=csv").out.splitlines()
    assert not [line for line in worst if line.startswith("gaussian,worst case")]
    assert [line for line in worst if line.startswith("none,worst case")]
    said = bench("table", "--rule=single", "--format=csv").out
    for row in csv.DictReader(io.StringIO(said)):
        assert not row["robust"] or row["defense"] == "none"  # one vote is all its votes

"""A cell from attack to rows: bit-identity, resume, provenance, and what goes wrong."""

from __future__ import annotations

import socket
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bench.evaluation.run
from bench.core.passes import count_passes
from bench.core.rng import Rng
from bench.core.threat import Access
from bench.data.load import load_test
from bench.errors import PluginError
from bench.evaluation.judge import Outcomes, judge
from bench.evaluation.run import run_cell
from bench.results.progress import Progress, finish
from bench.results.rows import write_runs
from bench.results.settings import Settings
from bench.results.table import collect
from bench.results.workspace import Workspace
from bench_attacks.noise import Noise
from bench_attacks.pgd import Pgd
from bench_defenses.none import Identity

from ..cells import about, assert_equal, at, prepared, rows, stop_after


def test_a_row_is_what_the_judge_said(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, said = prepared(n=6, shard=4), []

    def spied(*args: Any, **rest: Any) -> Outcomes:
        said.append(judge(*args, **rest))
        return said[-1]

    monkeypatch.setattr(bench.evaluation.run, "judge", spied)
    found = rows(made, workspace)
    assert found["index"].tolist() == list(range(6))
    assert found["label"].tolist() == made.pixels.y[:6].tolist()
    for name in ("distance", "legal", "clean", "robust"):
        assert found[name].tolist() == torch.cat([getattr(o, name) for o in said]).tolist()
    for name in ("clean_votes", "votes"):
        expected = torch.cat([getattr(o, name) for o in said]).numpy()
        assert np.array_equal(np.stack(list(found[name])), expected)
        assert (expected.sum(1) == 5).all()
    assert (found["distance"] <= 0.15 + 1e-6).all()
    assert found["robust"].sum() < found["clean"].sum(), "the case tells nothing"


def test_rows_of_a_shard_depend_on_no_other_shard(workspace: Workspace, tmp_path: Path) -> None:
    """Whatever is there already, and in whatever order it came."""
    whole = rows(prepared(), workspace)
    for k, present in enumerate([{0}, {4}, {8}, {0, 8}, {4, 8}, set()]):
        part = at(tmp_path / f"part{k}")
        made = prepared()
        stop_after(made, part, shards=3)  # all shards, not yet joined
        for start in {0, 4, 8} - present:
            part.store.shard(made.cell.key(), start).unlink()
            if k % 2:  # the images of the attack are made again as well
                part.store.proposal(made.cell.proposal_key(), start, start + 4).unlink()
        assert_equal(rows(prepared(), part), whole)


def test_shards_that_are_there_are_not_done_again(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(prepared(), workspace, shards=2)
    calls: list[int] = []
    monkeypatch.setattr(
        bench.evaluation.run,
        "judge",
        lambda *args, **rest: calls.append(1) or judge(*args, **rest),
    )
    with count_passes({"classifier": (made := prepared()).defense.classifier}) as counts:
        finish(run_cell(made, workspace=workspace))
        assert len(calls) == 1
        first = dict(counts)
        finish(run_cell(made, workspace=workspace))
        assert dict(counts) == first, "a finished cell asks no network anything"
    assert not (workspace.store.cell(made.cell.key()) / "shards").exists()


@pytest.mark.parametrize("shards", [0, 1, 2, 3])
def test_a_run_that_another_process_overtakes_ends_as_that_one(
    shards: int, workspace: Workspace, tmp_path: Path
) -> None:
    slow = run_cell(prepared(), workspace=workspace)
    for _ in range(shards + 1):
        next(slow)
    quick = rows(prepared(), at(workspace.store.root))
    finish(slow)
    assert_equal(rows(prepared(), workspace), quick)
    assert not (workspace.store.cell(prepared().cell.key()) / "shards").exists()


@pytest.mark.parametrize("access", [Access.FULL, Access.BPDA, Access.TRANSFER])
def test_in_float64_the_size_of_shards_changes_nothing(access: Access, tmp_path: Path) -> None:
    found = {
        shard: rows(
            prepared(shard=shard, access=access, eps=Fraction(1, 20), dtype=torch.float64),
            at(tmp_path / str(shard)),
        )
        for shard in (1, 5, 12)
    }
    exact = ["index", "label", "legal", "clean", "robust", "clean_votes", "votes"]
    for shard in (1, 5):
        assert_equal(found[shard][exact], found[12][exact])
        difference = (found[shard]["distance"] - found[12]["distance"]).abs()
        assert difference.max() < 1e-9
    assert 0 < found[12]["robust"].sum() < 12


class Sick(nn.Module):
    """A purifier that returns NaN for one image of the test set, known by its pixels."""

    stochastic = False
    differentiable = True

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x = x

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        hit = ((x - self.x).abs().flatten(1).amax(1) < 0.3).reshape(-1, 1, 1, 1)
        return torch.where(hit, torch.nan, x)


@pytest.mark.parametrize("attack", [Pgd(steps=2, eot=1), Noise(tries=2)])
def test_nan_from_a_defense_is_an_error_and_earlier_shards_are_kept(
    attack: Any, workspace: Workspace
) -> None:
    access = attack.accesses[0]
    image = load_test("digits", root=Path()).images(9, 10).x
    given = {"attack": attack, "name": "sick", "access": access}
    sick = prepared(Sick(image), **given)
    with pytest.raises(PluginError, match="returned NaN for images of the box"):
        finish(run_cell(sick, workspace=workspace))
    key = sick.cell.key()
    kept = {start: workspace.store.shard(key, start) for start in (0, 4)}
    stamps = {start: path.stat().st_mtime_ns for start, path in kept.items()}
    assert not workspace.store.shard(key, 8).exists()
    assert not workspace.store.done(sick.cell)
    assert collect(workspace.store)["state"].tolist() == ["unfinished"]
    for _ in run_cell(prepared(Identity(), **given), workspace=workspace):
        assert all(path.stat().st_mtime_ns == stamps[start] for start, path in kept.items())
    assert collect(workspace.store)["state"].tolist() == ["done"]


def test_provenance_says_how_and_nothing_of_whom(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "/home/someone/on/this/machine"
    monkeypatch.setattr(
        sys, "argv", [f"{secret}/bin/bench", "run", "--results", f"{secret}/results", "-n", "4"]
    )
    made = prepared(n=4)
    finish(run_cell(made, workspace=workspace, settings=Settings.of({"attack": {"steps": 3}})))
    write_runs(workspace.store)
    found = about(made, workspace)
    assert found["command"] == "bench run --results results -n 4"
    assert found["commit"] is None or len(found["commit"].rstrip("+")) == 40
    assert {"python", "purifybench", "torch", "numpy", "pyautoattack"} <= found[
        "versions"
    ].keys()
    assert len(found["devices"]) == 1
    assert found["devices"][0].startswith("cpu ")
    assert "threads" in found["devices"][0]
    assert found["attack seconds"] > 0
    assert found["judge seconds"] > 0
    assert found["peak memory MiB"] > 10
    # PGD: 3 gradients, a last look and two votes between best and last iterate, 2 draws each,
    # 2 steps each, of which the draws of an image share the first; the replay adds (1, 2).
    assert found["attack passes"] == {
        "classifier forward": 4 * 12, "classifier backward": 4 * 6,
        "energy forward": 4 * (18 + 9), "energy backward": 4 * (18 + 18),
    }  # fmt: skip
    assert found["judge passes"] == {
        "classifier forward": 4 * 10, "energy forward": 4 * 12, "energy backward": 4 * 12,
    }  # fmt: skip
    hidden = [secret, str(workspace.store.root), str(Path.home()), socket.gethostname()]
    for path in workspace.store.root.rglob("*"):
        if path.suffix in (".json", ".csv"):
            text = path.read_text()
            assert not [word for word in hidden if word in text], path


@pytest.mark.parametrize("word", ["--results=/home/someone/results", "-o/home/someone/x.md"])
def test_a_path_behind_an_equals_sign_is_cut_too(
    word: str, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", "run", word])
    made = prepared(n=4)
    finish(run_cell(made, workspace=workspace))
    assert "someone" not in about(made, workspace)["command"]


def test_costs_are_those_of_all_shards(workspace: Workspace, tmp_path: Path) -> None:
    whole, part = prepared(n=12), prepared(n=4)
    other = at(tmp_path / "other")
    finish(run_cell(whole, workspace=workspace))
    finish(run_cell(part, workspace=other))
    for name in ("attack passes", "judge passes"):
        once = about(part, other)[name]
        assert about(whole, workspace)[name] == {key: 3 * count for key, count in once.items()}


def test_progress_counts_images(workspace: Workspace) -> None:
    told: list[Progress] = list(run_cell(prepared(), workspace=workspace))
    assert [now.done for now in told] == [0, 4, 8, 12]
    assert {now.total for now in told} == {12}
    assert {now.what for now in told} == {"langevin under Pgd"}
    assert list(run_cell(prepared(), workspace=workspace)) == []

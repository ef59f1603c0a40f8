"""How far a plan is, from the folder alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.results.cell import Cell
from bench.results.files import read_json
from bench.results.locks import claimed
from bench.results.settings import measured
from bench.results.store import Store

from ..command import Bench, is_one_clear_message, runs

PLAN = """
classifiers: {name: small_cnn, set: {width: 4, training: {epochs: 1}}}
defenses: [none, {name: gaussian, set: {sigma: 0.1}}]
attacks: [{name: noise, set: {tries: 1}}, {name: pgd, access: full, set: {steps: 1, eot: 1}}]
threats: {eps: 0.1}
n: 6
shard: 2
draws: 2
"""


@pytest.fixture(autouse=True)
def _plan(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(PLAN)


def states(said: str) -> list[str]:
    return [" ".join(line.split()[:2]) for line in said.splitlines() if "digits" in line]


def interrupted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> int:
    """Run the plan; the judge raises at the second block of the second cell."""
    from bench.evaluation import run

    judge, calls = run.judge, []

    def dying(*args: Any, **options: Any) -> Any:
        calls.append(args)
        if len(calls) == 5:
            raise error
        return judge(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(run, "judge", dying)
        return bench("matrix", "plan.yaml").code


def test_before_anything_ran_all_is_open_and_nothing_is_made(
    bench: Bench, tmp_path: Path
) -> None:
    said = bench("status", "plan.yaml")
    assert said.code == 0, said
    assert states(said.out) == ["open 0/6"] * 4
    assert "to be trained first: small_cnn" in said.out
    assert "4 open\nclaimed in this folder: nothing" in said.out
    assert not (tmp_path / "results").exists()


def test_half_a_plan_is_told_and_not_collected(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert interrupted(bench, monkeypatch, KeyboardInterrupt) == 130
    assert states(bench("status", "plan.yaml").out) == [
        "done 6/6", "open 2/6", "open 0/6", "open 0/6",
    ]  # fmt: skip
    said = bench("collect", "plan.yaml")
    is_one_clear_message(said, "3 of 4 cells are not finished", "status plan.yaml", code=1)
    assert [row["state"] for row in runs(tmp_path)] == ["unfinished", "done"]


def test_what_a_living_process_is_at_is_told(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert interrupted(bench, monkeypatch, KeyboardInterrupt) == 130
    store = Store(tmp_path / "results")
    (folder,) = (path for path in store.cells() if not store.outcomes(path.name).is_file())
    key = Cell.read(measured(read_json(folder / "cell.json"))).proposal_key()
    shard, runs = store.claim_on_shard(key, 2, 4), store.claim("runs.csv")
    batch = shard.with_suffix(".batch")  # of shards that a GPU attacks at once
    with claimed(shard), claimed(batch), claimed(runs), claimed(store.claim("train-x")):
        said = bench("status", "plan.yaml").out
    assert states(said)[:2] == ["done 6/6", "running 2/6"]
    assert "1 shard at work" in said
    assert "claimed in this folder: 1 shard, 1 training" in said
    assert states(bench("status", "plan.yaml").out)[1] == "open 2/6"


def test_a_failure_is_told_with_its_reason_until_it_is_mended(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert interrupted(bench, monkeypatch, ZeroDivisionError) == 1
    said = bench("status", "plan.yaml")
    assert states(said.out) == ["done 6/6", "failed 2/6", "done 6/6", "done 6/6"]
    assert "ZeroDivisionError" in said.out
    said = bench("collect", "plan.yaml")
    assert said.code == 1
    assert "pgd: failed: ZeroDivisionError" in said.err
    assert bench("matrix", "plan.yaml").code == 0
    assert states(bench("status", "plan.yaml").out) == ["done 6/6"] * 4
    said = bench("collect", "plan.yaml", "--json")
    assert said.code == 0
    assert [row["state"] for row in said.rows] == ["done"] * 4


def test_a_ladder_is_told_attack_by_attack(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plan.yaml").write_text(PLAN + "ladder: true\n")
    assert "waits for the cheaper attacks" in bench("status", "plan.yaml").out
    assert bench("matrix", "plan.yaml").code == 0
    said = bench("status", "plan.yaml")
    assert states(said.out) == ["done 6/6"] * 4
    assert bench("collect", "plan.yaml").code == 0

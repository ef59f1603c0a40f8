"""A matrix in this process: it goes on after failures, and does nothing twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ..command import NOISE, RUN, TINY, Bench, files, no_work, runs

PLAN = """
datasets: digits
classifiers: {name: small_cnn, set: {training: {epochs: 1}}}
defenses: [none, shaky, jpeg]
attacks:
  - {name: noise, set: {tries: 1}}
  - {name: pgd, access: full, set: {steps: 1, eot: 1}}
threats: {norm: Linf, eps: 0.1}
n: 4
shard: 2
draws: 3
"""
SHAKY = '''
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

@dataclass(frozen=True)
class Shaky:
    """Works while a file says so."""
    revision: ClassVar[int] = 1
    stochastic: ClassVar[bool] = False
    differentiable: ClassVar[bool] = True

    def purify(self, x, *, rng):
        if not Path("repaired").exists():
            raise RuntimeError("the energy_model_net diverged & burnt 100%")
        return x
'''


@pytest.fixture
def shaky(install: Callable[..., Path]) -> None:
    """An installed defense that fails until a file called 'repaired' is there."""
    install("shaky", "shaky_bench", SHAKY, "[bench.defenses]\nshaky = shaky_bench:Shaky\n")


@pytest.fixture
def plan(tmp_path: Path) -> str:
    (tmp_path / "plan.yaml").write_text(PLAN)
    return "plan.yaml"


@pytest.mark.usefixtures("shaky")
def test_a_matrix_goes_on_after_failing_cells_and_later_does_what_is_left(
    bench: Bench, tmp_path: Path, plan: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = bench("matrix", plan)
    assert first.code == 1
    assert "Traceback" not in first.err
    states = {(row["defense"], row["attack"]): row["state"] for row in runs(tmp_path)}
    assert states == {
        ("none", "noise"): "done",
        ("none", "pgd"): "done",
        ("shaky", "noise"): "failed",
        ("shaky", "pgd"): "failed",
        ("jpeg", "noise"): "done",
        ("jpeg", "pgd"): "skipped",
    }
    notes = {row["state"]: row["note"] for row in runs(tmp_path)}
    assert "RuntimeError: the energy_model_net diverged & burnt 100%" in notes["failed"]
    assert "shaky_bench.py:" in notes["failed"]
    assert "--debug" in notes["failed"]
    assert "--access bpda" in notes["skipped"]
    assert (
        first.err.count("shaky under noise: failed: the purifier Shaky failed: RuntimeError")
        == 1
    )
    assert first.err.count("jpeg under pgd: skipped: ") == 1
    assert "[6/6]" in first.out

    # Nothing that is done is done again: what failed is tried again, and fails again.
    before = {path: path.read_bytes() for path in files(tmp_path) if path.suffix == ".parquet"}
    again = bench("matrix", plan)
    assert again.code == 1
    assert len(runs(tmp_path)) == 6
    assert {path: path.read_bytes() for path in before} == before

    (tmp_path / "repaired").touch()
    third = bench("matrix", plan)
    assert third.code == 0, "a skipped pair is no failure"
    assert sorted(row["state"] for row in runs(tmp_path)) == ["done"] * 5 + ["skipped"]

    no_work(monkeypatch)
    before = {path: path.read_bytes() for path in files(tmp_path)}
    fourth = bench("matrix", plan)
    assert fourth.code == 0
    assert fourth.out == third.out
    assert {path: path.read_bytes() for path in files(tmp_path)} == before


LOSING = SHAKY.replace("Shaky", "Losing").replace(
    'RuntimeError("the energy_model_net diverged & burnt 100%")',
    '__import__("torch").AcceleratorError("CUDA error: an illegal memory access")',
)


def test_an_error_that_loses_the_device_fails_its_own_cell_and_no_later_one(
    bench: Bench, install: Callable[..., Path], tmp_path: Path, plan: str
) -> None:
    source = "[bench.defenses]\nlosing = losing_bench:Losing\n"
    install("losing", "losing_bench", LOSING, source)
    text = PLAN.replace("[none, shaky, jpeg]", "[losing, none]")
    (tmp_path / "plan.yaml").write_text(text)
    said = bench("matrix", plan)
    assert said.code == 1
    assert "AcceleratorError: CUDA error: an illegal memory access" in said.err
    failed = [
        path
        for path in (tmp_path / "results" / "cells").glob("*/*.json")
        if "illegal memory access" in path.read_text()
    ]
    assert len(failed) == 1
    # What another process, such as the worker in its place, makes of the rest.
    (tmp_path / "repaired").touch()
    assert bench("matrix", plan).code == 0
    assert [row["state"] for row in runs(tmp_path)] == ["done"] * 4


@pytest.mark.usefixtures("shaky")
def test_a_failed_row_also_disappears_when_the_cell_is_run_alone(
    bench: Bench, tmp_path: Path
) -> None:
    text = PLAN.replace("[none, shaky, jpeg]", "[shaky]").replace(
        "access: full", "access: bpda"
    )
    (tmp_path / "plan.yaml").write_text(text)
    assert bench("matrix", "plan.yaml").code == 1
    assert [row["state"] for row in runs(tmp_path)] == ["failed", "failed"]
    (tmp_path / "repaired").touch()
    said = bench("run", "--defense=shaky", *NOISE, "--eps=0.1", "--shard=2", "--json")
    assert said.code == 0
    assert sorted(row["state"] for row in runs(tmp_path)) == ["done", "failed"]


def test_cells_that_failed_before_they_had_a_key_are_tried_again(
    bench: Bench, tmp_path: Path
) -> None:
    """What a cell is called depends on its checkpoints: these never came so far."""
    (tmp_path / "plan.yaml").write_text(PLAN.replace("none, shaky, jpeg", "none"))
    assert bench("train", "small_cnn", TINY[0]).code == 0
    (checkpoint,) = tmp_path.rglob("*.safetensors")
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(b"<html>")
    said = bench("matrix", "plan.yaml")
    assert said.code == 1
    assert [row["state"] for row in runs(tmp_path)] == ["failed", "failed"]
    assert "it is an HTML page" in runs(tmp_path)[0]["note"]
    assert checkpoint.read_bytes() == b"<html>"
    checkpoint.write_bytes(whole)
    assert bench("matrix", "plan.yaml").code == 0
    assert [row["state"] for row in runs(tmp_path)] == ["done", "done"]


@pytest.mark.usefixtures("shaky")
def test_a_matrix_goes_on_where_a_cell_cannot_even_be_written_down(
    bench: Bench, tmp_path: Path
) -> None:
    """A parameter that JSON cannot hold: whatever is said of it, the other cells run."""
    (tmp_path / "plan.yaml").write_text(
        PLAN.replace("[none, shaky, jpeg]", "[{name: gaussian, set: {sigma: .inf}}, none]")
    )
    said = bench("matrix", "plan.yaml")
    assert said.code in (1, 2)
    if said.code == 2:
        assert "sigma" in said.err
    else:
        assert [row["state"] for row in runs(tmp_path)].count("done") == 2


def test_the_rows_of_a_matrix_as_json(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(PLAN.replace("none, shaky, jpeg", "none, jpeg"))
    said = bench("matrix", "plan.yaml", "--json")
    assert said.code == 0
    assert len(said.rows) == 4
    assert {row["state"] for row in said.rows} == {"done", "skipped"}
    (skipped,) = [row for row in said.rows if row["state"] == "skipped"]
    assert skipped["robust"] is None


def test_a_matrix_shows_its_own_rows_alone(bench: Bench, tmp_path: Path) -> None:
    bench(*RUN, "--seed=7")
    (tmp_path / "plan.yaml").write_text(PLAN.replace("none, shaky, jpeg", "none"))
    said = bench("matrix", "plan.yaml", "--json")
    assert {row["seed"] for row in said.rows} == {0}
    assert len(runs(tmp_path)) == 3


def test_a_dry_matrix_lists_cells_and_writes_nothing(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plan.yaml").write_text(PLAN.replace("none, shaky, jpeg", "none, jpeg"))
    no_work(monkeypatch)
    said = bench("matrix", "plan.yaml", "--dry-run")
    assert said.code == 0
    assert said.out.count("key: ") == 3
    assert said.out.count("impossible: ") == 1
    assert files(tmp_path) == {tmp_path / "plan.yaml"}


def test_a_dry_matrix_as_json_is_one_document(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(PLAN.replace("none, shaky, jpeg", "none, jpeg"))
    said = bench("matrix", "plan.yaml", "--dry-run", "--json")
    outlines = json.loads(said.out)
    assert len(outlines) == 4


FAULTY = """
from torch import nn

net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

def purify(x):
    return x

def attack(view, x, y, *, threat):
    if int(y[0]) == {fails}:
        raise RuntimeError("no attack today")
    return x
"""


def write_faulty(fails: int) -> None:
    Path("mine.py").write_text(FAULTY.replace("{fails}", str(fails)))


MINE = ("run", "--defense=mine.py:purify", "--classifier=mine.py:net",
        "--attack=mine.py:attack", "-n", "4", "--shard=2", "--draws=2")  # fmt: skip


def test_a_run_that_fails_before_its_first_shard_leaves_no_row(
    bench: Bench, tmp_path: Path
) -> None:
    write_faulty(fails=0)  # the label of the first image of digits
    said = bench(*MINE)
    assert said.code == 1
    assert "no attack today" in said.err
    assert bench(*RUN).code == 0
    assert [row["defense"] for row in runs(tmp_path)] == ["none"]
    write_faulty(fails=2)  # the first label of the second shard
    assert bench(*MINE).code == 1
    assert "unfinished" in bench("table").out, "its first shard is kept"


def test_a_failed_row_goes_once_another_try_of_the_same_ran(
    bench: Bench, tmp_path: Path
) -> None:
    plan = (
        "{defenses: 'mine.py:purify', attacks: 'mine.py:attack', threats: {eps: 0.1}, n: 4, "
        "classifiers: 'mine.py:net', draws: 2, shard: 2}"
    )
    Path("plan.yaml").write_text(plan)
    write_faulty(fails=0)
    assert bench("matrix", "plan.yaml").code == 1
    Path("mine.py").write_text(Path("mine.py").read_text() + "# edited in vain\n")
    assert bench("matrix", "plan.yaml").code == 1
    assert [row["state"] for row in runs(tmp_path)] == ["failed"]
    assert "1 failed" in bench("status", "plan.yaml").out
    write_faulty(fails=10)
    assert bench("matrix", "plan.yaml").code == 0
    assert [row["state"] for row in runs(tmp_path)] == ["done"]


def test_files_of_one_name_in_two_folders_keep_their_failures(
    bench: Bench, tmp_path: Path
) -> None:
    for folder in ("a", "b"):
        Path(folder).mkdir()
        text = f"def purify(x):\n    return x.no_{folder}\n"
        Path(folder, "mine.py").write_text(text)
    write_faulty(fails=10)
    plan = (
        "{defenses: ['a/mine.py:purify', 'b/mine.py:purify'], attacks: noise, n: 4, draws: 2, "
        "threats: {eps: 0.1}, classifiers: 'mine.py:net'}"
    )
    Path("plan.yaml").write_text(plan)
    for _ in range(2):
        assert bench("matrix", "plan.yaml").code == 1
        assert [row["state"] for row in runs(tmp_path)] == ["failed", "failed"]

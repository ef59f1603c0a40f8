"""Plans that would never end, or mean another number, are refused before anything is built."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from bench.errors import PlanError, UsageError
from bench.experiments import plan as module
from bench.experiments.plan import Plan, read_plan
from bench.experiments.plan_faults import all_faults
from bench.results.cell import Request

from ..command import Bench, is_one_clear_message, never

BASE = "defenses: none\nattacks: noise\nthreats: {eps: 0.1}\n"


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "line", ["n: yes", "n: true", "n: 1:30", "n: 010", "n: '5'", "n: 5.0", "draws: on",
             "shard: 0x10", "seeds: [true]", "seeds: 1_000", "audit: yes", "n: 1e2"],
)  # fmt: skip
def test_what_is_no_number_is_no_count(tmp_path: Path, line: str) -> None:
    with pytest.raises(UsageError):
        read_plan(written(tmp_path, f"{BASE}{line}\n"))


@pytest.mark.parametrize("eps", ["1e400", "1e-400", "1:30", "010", "0.03137254901960784"])
def test_a_radius_that_would_become_another_is_refused(tmp_path: Path, eps: str) -> None:
    with pytest.raises(UsageError):
        read_plan(written(tmp_path, BASE.replace("0.1", eps))).requests()


def grid(sizes: list[int], seeds: int) -> Plan:
    values = {f"p{number}": list(range(size)) for number, size in enumerate(sizes)}
    return Plan.model_validate(
        {"defenses": {"name": "none", "grid": values}, "attacks": "noise",
         "threats": {"eps": "0.1"}, "seeds": list(range(seeds))}
    )  # fmt: skip


def test_a_product_above_the_limit_is_refused_before_it_is_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    large = grid([1000] * 8, 101)
    never(monkeypatch, "bench.experiments.plan.Choice.spread", "bench.experiments.plan.build")
    (fault,) = large.faults()
    assert f"{101 * 1000**8:,} cells" in fault
    with pytest.raises(PlanError, match="more than 100,000"):
        large.requests()


def test_the_limit_itself_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_CELLS", 12)
    assert len(grid([2, 3], 2).requests()) == 12
    with pytest.raises(PlanError):
        grid([2, 3], 3).requests()


def test_looking_for_what_is_asked_twice_compares_no_pairs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared = 0
    equal = Request.__eq__

    def counted(one: Request, other: object) -> Any:
        nonlocal compared
        compared += 1
        return equal(one, other)

    monkeypatch.setattr(Request, "__eq__", counted)
    assert len(grid([10, 10], 3).requests()) == 300
    assert compared == 0


def test_equal_settings_are_one_request_however_they_are_written() -> None:
    params: list[dict[str, Any]] = [{"a": 1, "b": {"c": [1, 2]}}, {"b": {"c": [1, 2]}, "a": 1}]
    params += [{"a": 1.0, "b": {"c": [1, 2]}}, {"a": 2, "b": {"c": [1, 2]}}]
    plan = Plan.model_validate(
        {"defenses": [{"name": "none", "set": one} for one in params], "attacks": "noise",
         "threats": {"eps": "0.1"}}
    )  # fmt: skip
    assert [one.settings["defense"]["a"] for one in plan.requests()] == [1, 2]


def test_many_faults_are_counted_and_the_first_are_told() -> None:
    error = all_faults(f"fault {number}" for number in range(1000))
    assert len(error.faults) == 1000
    assert str(error).startswith("the plan has 1000 faults:")
    assert str(error).endswith("and 950 more.")


FAULTY = {
    "many unknown keys": "\n".join(f"k{i}: 1" for i in range(30_000)),
    "unknown keys": BASE + "\n".join(f"k{i}: 1" for i in range(150)),
    "unknown threats": "threats: [" + "{x: 1}, " * 3000 + "]",
    "an alias of itself": "defenses: &a [*a]\nattacks: noise\nthreats: {eps: 0.1}\n",
    "keys that are no text": BASE.replace("none", "{name: none, set: {1: {2: 3}}}"),
    "a date": BASE + "n: 2020-13-45\n",
    "tags": BASE + "n: !!int x\n",
    "half of a pair": BASE.replace("none", '"\\ud800"'),
    "a large threat": BASE.replace("{eps: 0.1}", "9" * 3000),
    "nothing but brackets": "[" * 100_000,
}


@pytest.mark.parametrize("text", FAULTY.values(), ids=list(FAULTY))
def test_a_hostile_plan_is_one_message(bench: Bench, tmp_path: Path, text: str) -> None:
    written(tmp_path, text)
    said = bench("matrix", "plan.yaml", "--dry-run")
    assert said.code == 2
    assert said.err.count("error: ") == 1
    assert "Traceback" not in said.err
    assert len(said.err) < 8000


@pytest.mark.parametrize("path", ["/dev/zero", "pipe"])
def test_a_plan_that_is_no_file_is_not_read(bench: Bench, tmp_path: Path, path: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    said = bench("matrix", path, "--dry-run")
    is_one_clear_message(said, path, "not a regular file", code=2)

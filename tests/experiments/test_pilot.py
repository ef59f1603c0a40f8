"""A ladder by yield: a pilot gives its order, and its worst case is that of any order."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from bench.errors import PlanError
from bench.experiments.matrix import ordered
from bench.experiments.pilot import Trial, by_yield, greedy, pilot_of
from bench.experiments.plan import Plan, read_plan
from bench.results.store import Store, read_json, read_rows

from ..command import Bench, is_one_clear_message, no_work, runs

PLAN = """
classifiers: {name: small_cnn, set: {width: 4, training: {epochs: 1}}}
defenses: [none, {name: gaussian, set: {sigma: 0.1}}]
attacks:
  - {name: noise, set: {tries: 1}}
  - {name: pgd, access: full, set: {steps: 1, eot: 1}}
  - {name: pgd, access: full, set: {steps: 4, eot: 1}}
  - {name: pgd, access: transfer, set: {steps: 1, eot: 1}}
threats: {eps: 0.1}
n: 8
shard: 4
draws: 2
ladder: yield
pilot: 6
"""
WORDS = [("noise",), ("(full", "steps=1"), ("(full", "steps=4"), ("(transfer",)]


def made(**images: tuple[set[int], int]) -> dict[str, Trial]:
    return {name: Trial(frozenset(broken), passes) for name, (broken, passes) in images.items()}


@pytest.mark.parametrize(
    ("found", "broken", "order"),
    [
        # Alone b breaks most per pass; once it did, a breaks one more for 10 and c two for 40.
        (made(a=({1, 2, 3}, 10), b=({1, 2}, 2), c=({4, 5}, 40)), set(), "bac"),
        (made(a=({1, 2, 3}, 10), b=({1, 2}, 2), c=({4, 5}, 10)), set(), "bca"),
        # What is broken already counts for nobody.
        (made(a=({1, 2, 3}, 3), b=({4}, 10), c=({5}, 5)), {1, 2, 3}, "cba"),
        # Equal ones, and those that break nothing more, stay in the order given: that of cost.
        (made(a=({1}, 5), b=({2}, 5), c=({3}, 5)), set(), "abc"),
        (made(a=(set(), 900), b=(set(), 1), c=({1}, 5)), set(), "cab"),
        (made(a=({1}, 0), b=({1, 2}, 1)), set(), "ba"),
    ],
)
def test_what_breaks_most_of_the_rest_per_pass_comes_first(
    found: Any, broken: set[int], order: str
) -> None:
    assert "".join(greedy(found, broken)) == order


def test_each_ladder_has_an_order_of_its_own_behind_what_purifiers_share() -> None:
    pairs = ordered(Plan.model_validate(read_yaml()))
    assert len(pairs) == 8, "four attacks on each of two defenses"
    one = {0: Trial(frozenset({1}), 1), 1: Trial(frozenset({1}), 9), 3: Trial(frozenset(), 1)}
    other = {4: Trial(frozenset({1}), 9), 5: Trial(frozenset({1, 2}), 9),
             6: Trial(frozenset({1, 2, 3}), 9), 7: Trial(frozenset({3}), 1)}  # fmt: skip
    # Place 2 has no number, so it is last. After place 7, 5 and 6 break as many: 5 is cheaper.
    assert by_yield(pairs, {**one, **other}) == [3, 0, 1, 2, 7, 5, 4, 6]
    # Without any number: by announced cost.
    assert by_yield(pairs, {}) == [3, 0, 1, 2, 7, 4, 5, 6]


def test_the_pilot_attacks_images_that_nobody_is_rated_on() -> None:
    plan = Plan.model_validate({**read_yaml(), "audit": True})
    few, tried = pilot_of(plan, ordered(plan))
    assert (few.ladder, few.audit) == (False, False)
    assert {(one.request.dataset, one.request.n) for one in tried} == {("digits:validation", 6)}


def read_yaml() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(PLAN)
    return found


def write(name: str, content: object = PLAN) -> str:
    Path(name).write_text(content if isinstance(content, str) else json.dumps(content))
    return name


@pytest.fixture
def filled(filled_by: Callable[..., Path], tmp_path: Path) -> Store:
    write(str(tmp_path / "plan.yaml"))
    return Store(filled_by(("matrix", "plan.yaml")))


def made_in(store: Store) -> dict[str, bytes]:
    return {key: store.outcomes(key).read_bytes() for key in store.finished()}


def images_broken(store: Store) -> dict[str, set[int]]:
    """Name the images of the table that any attack on a defense broke."""
    found: dict[str, set[int]] = {}
    for key in store.finished():
        cell = read_json(store.cell(key) / "cell.json")
        if cell["dataset"] == "digits":
            rows = read_rows(store.outcomes(key))
            found.setdefault(cell["defense"]["name"], set()).update(
                rows["index"][~rows["robust"]]
            )
    return found


def test_a_ladder_by_yield_is_the_listed_ladder_of_the_order_that_it_found(
    bench: Bench, filled: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_work(monkeypatch)
    said = bench("matrix", "plan.yaml")
    assert said.code == 0, said.err
    assert said.out.count("pilot [") == 8
    for name in ("none", "gaussian"):
        assert f"the pilot of {name} (Linf 0.1, seed 0) took " in said.out
    told = (
        " attack passes, beside those of the rows, on the first 6 images of digits:validation"
    )
    assert said.out.count(told + "\n") == 2
    tried = [row for row in runs(tmp_path) if row["dataset"] == "digits:validation"]
    assert {row["attacked"] for row in tried} == {"6"}
    assert len(tried) == len(runs(tmp_path)) - 8 == 8

    # The order that was found, written down, needs no further cell.
    titles = [line.partition("] ")[2] for line in said.out.splitlines() if line[:1] == "["]
    for defense in read_yaml()["defenses"]:
        name = defense if isinstance(defense, str) else defense["name"]
        attacks = []
        for title in (one for one in titles if f" {name} under" in one):
            (number,) = (k for k, words in enumerate(WORDS) if all(w in title for w in words))
            attacks.append(read_yaml()["attacks"][number])
        listed = {**read_yaml(), "ladder": "listed", "defenses": defense, "attacks": attacks}
        del listed["pilot"]
        assert bench("matrix", write("listed.yaml", listed)).code == 0
    assert len(runs(tmp_path)) == 16


def test_the_worst_case_is_that_of_all_attacks_on_all_images(
    bench: Bench, filled: Store, tmp_path: Path
) -> None:
    everything = PLAN.replace("ladder: yield\npilot: 6\n", "")
    shutil.copytree(filled.root / "checkpoints", tmp_path / "all" / "checkpoints")
    assert bench("matrix", write("all.yaml", everything), "--results=all").code == 0
    found = images_broken(filled)
    assert found == images_broken(Store(tmp_path / "all"))
    assert all(found.values())


@pytest.mark.parametrize("calls", [3, 9, 13])  # in the pilot, at its end, in the ladder
def test_what_was_interrupted_finds_the_same_order(
    bench: Bench, filled: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    from bench.evaluation import run

    judge, made = run.judge, itertools.count(1)

    def dying(*args: Any, **options: Any) -> Any:
        if next(made) == calls:
            raise KeyboardInterrupt
        return judge(*args, **options)

    shutil.copytree(filled.root / "checkpoints", tmp_path / "killed" / "checkpoints")
    with monkeypatch.context() as patch:
        patch.setattr(run, "judge", dying)
        assert bench("matrix", "plan.yaml", "--results=killed").code == 130
    assert bench("matrix", "plan.yaml", "--results=killed").code == 0
    assert made_in(Store(tmp_path / "killed")) == made_in(filled)


def test_how_far_pilot_and_ladder_are(bench: Bench, filled: Store) -> None:
    done = bench("status", "plan.yaml").out
    assert "16 done" in done
    collected = bench("collect", "plan.yaml", "--json").rows
    assert [row["dataset"] for row in collected] == ["digits"] * 8
    keys = {cell["key"] for cell in bench("matrix", "plan.yaml", "--dry-run", "--json").rows}
    assert keys == set(filled.finished())

    victim = next(
        key for key in filled.finished()
        if read_json(filled.cell(key) / "cell.json")["dataset"] == "digits:validation"
    )  # fmt: skip
    shutil.rmtree(filled.cell(victim))
    said = bench("status", "plan.yaml").out
    assert said.count("waits for the pilot") == 6
    assert "9 done, 7 open" in said
    is_one_clear_message(bench("collect", "plan.yaml"), "6 of 8 cells are not finished", code=1)
    said = bench("matrix", "plan.yaml", "--dry-run").out
    assert said.count("waits for: the pilot") == 6
    assert said.count("key: ") == 10


def test_an_attack_that_failed_in_the_pilot_comes_last_and_says_so(
    bench: Bench, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(
        "def few(view, x, y, *, eps, rng):\n"
        "    if len(x) == 2:\n        raise ValueError('two are too few')\n    return x\n"
    )
    attacks = ["mine.py:few", {"name": "noise", "set": {"tries": 1}}]
    plan = {**read_yaml(), "defenses": "none", "attacks": attacks}
    said = bench("matrix", write("plan.yaml", plan))
    assert said.code == 0, said
    assert "failed: ValueError: two are too few" in said.err
    assert said.err.count("has no number in the pilot: it comes last.") == 1
    assert said.out.index("[1/2] digits none under noise") < said.out.index("[2/2] digits none")


def test_a_data_set_without_held_out_images_is_tried_on_its_own_and_says_so(
    bench: Bench, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(10)
    np.savez(tmp_path / "mine.npz", x=rng.integers(0, 255, (10, 8, 8, 1), np.uint8), y=y)
    (tmp_path / "net.py").write_text(
        "import torch\n\ndef make():\n    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))\n"
    )
    plan = {
        **read_yaml(),
        "datasets": "mine.npz",
        "classifiers": "net.py:make",
        "defenses": "none",
    }
    said = bench("matrix", write("plan.yaml", plan))
    assert said.code == 0, said
    told = "the first 6 images of mine.npz, which are rated too: it holds none out"
    assert told in said.out
    assert {row["n"] for row in runs(tmp_path)} == {"6", "8"}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"ladder": "yeild"}, "ladder: write true, false, listed or yield."),
        ({"pilot": 0}, "pilot: pilot is 0: it has to be 1 or more."),
        ({"pilot": "six"}, "pilot: 'six' is not what belongs here: write a whole number"),
        ({"pilot": 130}, "pilot: a pilot on 130 images needs more than digits:validation has. "
         "Write pilot: 129 or less."),
        ({"ladder": True}, "pilot: only a ladder by yield has a pilot. Write ladder: yield, "),
    ],
)  # fmt: skip
def test_a_wrong_pilot_is_told_before_anything_runs(
    tmp_path: Path, wrong: dict[str, Any], said: str
) -> None:
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({**read_yaml(), **wrong}))
    with pytest.raises(PlanError) as caught:
        ordered(read_plan(tmp_path / "plan.yaml"))
    (fault,) = caught.value.faults
    assert said in fault
    assert "plan.yaml, line" in fault


def test_few_images_are_tried_where_nothing_is_said() -> None:
    content = read_yaml()
    del content["pilot"]
    assert Plan.model_validate(content).tried_on == 16

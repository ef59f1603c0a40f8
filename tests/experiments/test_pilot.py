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
from bench.experiments.pilot import Trial, by_yield, pilot_of
from bench.experiments.plan import Plan, read_plan
from bench.results.files import read_json
from bench.results.store import Store, read_rows

from ..command import Bench, is_one_clear_message, no_work, runs

PLAN = """
classifiers: {name: small_cnn, set: {width: 8, training: {epochs: 4}}}
defenses: [none, {name: gaussian, set: {sigma: 0.1}}]
attacks:
  - {name: noise, set: {tries: 1}}
  - {name: pgd, access: full, set: {steps: 4, eot: 1}}
  - {name: pgd, access: full, set: {steps: 1, eot: 1}}
  - {name: pgd, access: transfer, set: {steps: 1, eot: 1}}
threats: {eps: 0.1}
n: 8
shard: 4
draws: 2
ladder: yield
pilot: 6
"""
WORDS = [("noise",), ("(full", "steps=4"), ("(full", "steps=1"), ("(transfer",)]


def order(*found: tuple[int, int, int] | None) -> list[int]:
    """Order the attacks on one defense: images that each met and broke, and its passes."""
    pairs = ordered(Plan.model_validate({**read_yaml(), "defenses": "none"}))
    return by_yield(pairs, {k: Trial(*one) for k, one in enumerate(found) if one})


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        # The one that all purifiers share is the first; 3 in 10 passes, 2 in 5, 4 in 40.
        ([(6, 3, 10), (6, 2, 5), (6, 4, 40), (6, 0, 9)], [3, 1, 0, 2]),
        # Those that broke nothing: by passes an image, 9/6 and 8/1.
        ([(1, 0, 8), (6, 0, 9), (6, 1, 900), (6, 0, 9)], [3, 2, 1, 0]),
        # What met no image, and what has no number, by announced cost; noise announces least.
        ([None, (0, 0, 0), (2, 0, 70), (6, 3, 9)], [3, 2, 0, 1]),
        ([(0, 0, 0), None, None, None], [3, 0, 2, 1]),
        # Equal in all that was measured: by announced cost.
        ([(6, 2, 8), (6, 2, 8), (6, 2, 8), (6, 2, 8)], [3, 0, 2, 1]),
        # An attack without passes that breaks something is the best there is.
        ([(6, 2, 3), (6, 1, 0), (6, 2, 8), (6, 2, 8)], [3, 1, 0, 2]),
    ],
)
def test_what_broke_most_per_pass_comes_first(found: Any, expected: list[int]) -> None:
    assert order(*found) == expected


def test_each_ladder_has_an_order_of_its_own() -> None:
    pairs = ordered(Plan.model_validate(read_yaml()))
    found = {0: Trial(6, 1, 1), 1: Trial(6, 2, 1), 4: Trial(6, 2, 1), 5: Trial(6, 1, 1)}
    assert by_yield(pairs, found) == [3, 1, 0, 2, 7, 4, 5, 6]


def test_the_pilot_attacks_images_that_nobody_is_rated_on() -> None:
    plan = Plan.model_validate({**read_yaml(), "audit": True})
    pilot = pilot_of(plan, ordered(plan))
    assert (pilot.plan.ladder, pilot.plan.audit) == (True, False)
    tried = [one.request for one in pilot.pairs]
    assert {(one.dataset, one.n) for one in tried} == {("digits:validation", 6)}
    assert [one.attack for one in tried] == ["pgd", "noise", "pgd", "pgd"] * 2  # by cost
    assert dict(pilot.of) == {3: 0, 0: 1, 2: 2, 1: 3, 7: 4, 4: 5, 6: 6, 5: 7}


def test_two_data_sets_with_the_same_held_out_images_share_a_pilot() -> None:
    names = ["digits", "digits:validation"]
    plan = Plan.model_validate({**read_yaml(), "defenses": "none", "datasets": names})
    pilot = pilot_of(plan, ordered(plan))
    assert len(pilot.pairs) == 4
    assert [pilot.of[k] for k in range(4)] == [pilot.of[k] for k in range(4, 8)]


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
    assert {row["n"] for row in tried} == {"6"}
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


@pytest.mark.parametrize("calls", [5, 15])  # in the pilot, in the ladder
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

    cells = {key: read_json(filled.cell(key) / "cell.json") for key in filled.finished()}
    tried = [key for key, cell in cells.items() if cell["dataset"] == "digits:validation"]
    last = max(tried, key=lambda key: len(cells[key].get("after", ())))
    shutil.rmtree(filled.cell(last))
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
        "    if len(x) <= 6:\n        raise ValueError('six are too few')\n    return x\n"
    )
    attacks = ["mine.py:few", {"name": "noise", "set": {"tries": 1}}]
    images = {"n": 30, "shard": 30}
    plan = {**read_yaml(), "defenses": "none", "attacks": attacks, **images}
    said = bench("matrix", write("plan.yaml", plan))
    assert said.code == 0, said
    assert "failed: ValueError: six are too few" in said.err
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

"""What is wrong with a plan: all of it in one message, each with its line and what to write."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.errors import PlanError, UsageError
from bench.experiments.matrix import resolve_plan
from bench.experiments.plan import read_plan
from bench.paper.spec import read_table

WRONG = """defenses: nne
attacks:
  - {name: pgd, set: {stps: 5}}
  - {nam: pgd}
  - {name: pgd, access: fll}
  - 5
threats: [{norm: L9, eps: x}, {norm: L2}, 8/255]
seeds: [0, -1, a]
n: -5
draws: abc
shard:
ladder: maybe
search: f16
audit: 0
datasets: [digits, digitss]
accesses: [full, fulll]
colour: red
"""
SAID = (
    "line 1, defenses: no defense is called 'nne'. Did you mean 'none'?",
    "line 3, attacks, entry 1: attack.stps is no parameter. Did you mean 'attack.steps'?",
    "line 4, attacks, entry 2: the key 'name' is missing. Write {name: NAME}.",
    "line 4, attacks, entry 2, nam: there is no key 'nam'. Did you mean 'name'?",
    "line 5, attacks, entry 3, access: no access is called 'fll'. Did you mean 'full'?",
    "line 6, attacks, entry 4: 5 is not what belongs here: write a name, or {name: NAME",
    "line 7, threats, entry 1, norm: no norm is called 'L9'. Did you mean 'L2'?",
    "line 7, threats, entry 1, eps: eps 'x' is not a number that a cell can keep.",
    "line 7, threats, entry 2: the key 'eps' is missing. Write {norm: Linf, eps: 8/255}.",
    "line 7, threats, entry 3: write a threat as {norm: Linf, eps: '8/255'}.",
    "line 8, seeds, entry 2: seed is -1: it has to be 0 or more.",
    "line 8, seeds, entry 3: 'a' is not what belongs here: write a whole number",
    "line 9, n: n is -5: it has to be 1 or more.",
    "line 10, draws: 'abc' is not what belongs here: write a whole number",
    "line 11, shard: there is no value: write a whole number",
    "line 12, ladder: write true, false, listed or yield.",
    "line 13, search: no precision of a search is called 'f16'.",
    "line 14, audit: write true, false or the number of images, 1 or more.",
    "line 15, datasets, entry 2: no data set is called 'digitss'. Did you mean 'digits'?",
    "line 16, accesses, entry 2: no access is called 'fulll'. Did you mean 'full'?",
    "line 17, colour: there is no key 'colour'. Known: defenses, attacks, threats, ",
)


def faults(path: Path, text: str) -> tuple[str, ...]:
    path.write_text(text)
    with pytest.raises(PlanError) as caught:
        resolve_plan(read_plan(path))
    return caught.value.faults


def test_every_wrong_value_is_told_with_its_place_and_a_remedy(tmp_path: Path) -> None:
    found = faults(tmp_path / "my.yaml", WRONG)
    for said in SAID:
        assert any(fault.startswith(f"my.yaml, {said}") for fault in found), said
    assert len(found) == len(SAID)
    told = " ".join(found)
    assert not any(word in told for word in ("Input should", "Field required", "validation"))


def test_faults_of_a_sound_form_have_their_lines_too(tmp_path: Path) -> None:
    text = "attacks: noise\nthreats: {eps: 0.1}\ndefenses:\n- none\n- {name: nne}\n"
    (said,) = faults(tmp_path / "my.yaml", text)
    assert said.startswith("my.yaml, line 5, defenses, entry 2: no defense is called 'nne'.")


def test_a_run_of_a_table_has_the_line_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "table.yaml"
    path.write_text(
        "title: t\nlayout: gains\nruns:\n- defenses: none\n  attacks: noise\n"
        "  threats: {eps: 0.1}\n  n: 0\n- defenses: nne\n  attacks: noise\n"
        "  threats: {eps: 0.1}\n"
    )
    with pytest.raises(PlanError) as caught:
        read_table(path)
    layout, count, name = caught.value.faults
    assert layout.startswith("table.yaml, line 2, layout: 'gains' is not known: write 'gain', ")
    assert count.startswith("table.yaml, run 1, line 7, n: n is 0")
    assert name.startswith("table.yaml, run 2, line 8, defenses: no defense is called 'nne'")


@pytest.mark.parametrize(
    ("asked", "said"),
    [("mine.yaml", "Did you mean main.yaml?"), ("other.yaml", "That folder has main.yaml."),
     ("nowhere/main.yaml", "There is no folder"), ("main.yml", "Did you mean main.yaml?")],
)  # fmt: skip
def test_a_plan_that_is_not_there_is_told_what_to_do(
    tmp_path: Path, asked: str, said: str
) -> None:
    (tmp_path / "main.yaml").touch()
    with pytest.raises(UsageError, match="there is no plan") as caught:
        read_plan(tmp_path / asked)
    assert said in str(caught.value)
    assert "docs/usage.md" in str(caught.value)


def test_broken_yaml_is_one_line_of_our_words(tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text("defenses: [none\nattacks: x\n")
    with pytest.raises(UsageError) as caught:
        read_plan(path)
    said = str(caught.value)
    assert "my.yaml is not valid YAML: line 2: expected" in said
    assert "begun in line 1" in said
    assert "\n" not in said
    assert "unicode string" not in said

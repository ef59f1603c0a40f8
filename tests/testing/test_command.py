"""bench check: a line for each check, and an exit code that says whether all hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.testing.kinds import kind_of

from ..command import Bench, is_one_clear_message

MINE = """
import torch
from torch import nn
from dataclasses import dataclass
from typing import ClassVar

def blur(x):
    return nn.functional.avg_pool2d(x, 3, stride=1, padding=1)

def detached(x, strength: float = 0.1):
    return x - (strength * x).detach()

detached.differentiable = True

net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
conv = nn.Conv2d(1, 1, 3, padding=1)

def classifier(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[1] * shape[2], classes))

def step(view, x, y, *, threat):
    x = x.clone().requires_grad_()
    loss = nn.functional.cross_entropy(view.classify(x), y)
    moved = x + threat.radius * torch.autograd.grad(loss, x)[0].sign()
    return moved.clamp(0, 1).detach()

step.norms = ("Linf",)

class Pipe:
    def purify(self, x):
        return x

def broken(x):
    raise ValueError("no GPU")

@dataclass(frozen=True)
class Data:
    shape: ClassVar = (1, 2, 2)
    classes: ClassVar = 2
    test_images: ClassVar = 4
    def load(self, *, root, train):
        return torch.rand(4, 1, 2, 2), torch.arange(4) % 2
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return path


def test_a_good_one_is_told_line_by_line(bench: Bench, mine: Path) -> None:
    said = bench("check", "mine.py:blur")
    assert said.code == 0, said
    lines = said.out.splitlines()
    taken = "mine.py:blur: taken for a plugin of the kind defense; --kind names another."
    assert lines[:2] == [taken, "ok      builds from its defaults"]
    assert "-       it is one" not in said.out
    assert any(line.startswith("-       its passes are counted: it has") for line in lines)
    assert lines[-1] == "mine.py:blur: 14 checks hold, none fails."


def test_a_bad_one_fails_with_a_sentence(bench: Bench, mine: Path) -> None:
    said = bench("check", "mine.py:detached")
    assert said.code == 1
    assert "FAILS   `differentiable` is true" in said.out
    assert "A part is detached" in " ".join(said.out.split())
    assert said.out.endswith("1 fails.\n")
    assert "Traceback" not in said.out + said.err
    said = bench("check", "mine.py:detached", "--json", "--set", "defense.strength=0")
    assert said.code == 0  # there is nothing left to detach
    found = json.loads(said.out)
    assert (found["name"], found["kind"]) == ("mine.py:detached", "defense")
    assert {one["state"] for one in found["checks"]} == {"ok", "not applicable"}


@pytest.mark.parametrize(
    ("name", "kind"),
    [("mine.py:blur", "defenses"), ("mine.py:conv", "defenses"), ("mine.py:Pipe", "defenses"),
     ("mine.py:net", "classifiers"), ("mine.py:classifier", "classifiers"),
     ("mine.py:step", "attacks"), ("mine.py:Data", "datasets"), ("ebm", "defenses"),
     ("pgd", "attacks"), ("small_cnn", "classifiers"), ("digits", "datasets"),
     ("mine.npz", "datasets")],
)  # fmt: skip
def test_the_kind_is_found_out(
    mine: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    monkeypatch.chdir(mine.parent)
    assert kind_of(name, dataset="digits", data=mine.parent) == kind


def test_what_cannot_be_told_is_asked(bench: Bench, mine: Path) -> None:
    unclear = bench("check", "mine.py:broken")
    is_one_clear_message(unclear, "--kind defense or --kind classifier", code=2)
    said = bench("check", "mine.py:broken", "--kind=defense")
    assert said.code == 1
    assert "ValueError: no GPU" in said.out
    is_one_clear_message(bench("check", "emb"), "Did you mean 'ebm'?", code=2)
    is_one_clear_message(bench("check", "ebm", "--kind=purifier"), "defense", code=2)
    is_one_clear_message(bench("check", "none.py:x"), "no file none.py", code=2)


def test_a_data_set_in_a_file_is_one_of_a_cell(
    bench: Bench, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name has no folders, where it was found is kept, and another content is seen."""
    mine.write_text(
        MINE.replace("torch.rand(4, 1, 2, 2)", "torch.arange(16.).reshape(4, 1, 2, 2) / 16")
    )
    deep = mine.parent / "deep"
    deep.mkdir()
    monkeypatch.chdir(deep)
    words = ("--defense=mine.py:Pipe", "--classifier=../mine.py:classifier", "--attack=noise",
             "--set=attack.tries=1", "-n", "4", "--draws=1", "--eps=0.1", "--json")  # fmt: skip
    (deep / "mine.py").write_text(mine.read_text())
    said = bench("run", "--dataset=../mine.py:Data", *words)
    assert said.code == 0, said
    (row,) = said.rows
    assert row["dataset"] == "mine.py:Data"
    about = json.loads(Path("results", "cells", row["key"], "cell.json").read_text())
    assert about["sources"]["dataset"].endswith("mine.py:Data")
    assert bench("verify").code == 0
    mine.write_text(mine.read_text().replace("/ 16", "/ 17"))
    (other,) = bench("run", "--dataset=../mine.py:Data", *words).rows
    assert other["key"] != row["key"]
    is_one_clear_message(
        bench("run", "--dataset=../mine.py:blur", *words), "is a function", "data set", code=1
    )


@pytest.mark.parametrize("name", ["mine.py:step", "mine.py:Data", "digits"])
def test_other_kinds_are_checked_too(bench: Bench, mine: Path, name: str) -> None:
    said = bench("check", name)
    assert said.code == (name == "mine.py:Data"), said
    if said.code:
        assert "Sort file names" in said.out

"""What plugins return, through every command: one sentence that names plugin and remedy.

A folder of sound cells is made once. Then the plugin turns odd, as the environment says, and
every command meets it: none shows a traceback, and what is beside it goes on.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.audit import run
from bench.audit.gradients import gradient_exists
from bench.audit.votes import eight_bits_suffice
from bench.calibration import gaps, traps

from ..command import Bench, is_one_clear_message

SOURCE = '''
import os
from dataclasses import dataclass
from typing import ClassVar
import torch
from torch import nn
from bench.api import Access, Calls, Norm
from bench_defenses.classifiers.small_cnn import SmallCnn

WAYS = {
    "none": lambda x: None,
    "tuple": lambda x: (x, None),
    "dict": lambda x: {"logits": x},
    "numpy": lambda x: x.detach().cpu().numpy(),
    "double": lambda x: x.double(),
    "half": lambda x: x.half(),
    "bytes": lambda x: (255 * x).clamp(0, 255).to(torch.uint8),
    "nan": lambda x: x * float("nan"),
    "few": lambda x: x[:, :5],
    "fewer": lambda x: x[1:],
    "flat": lambda x: x.reshape(-1),
    "detached": lambda x: x.detach(),
    "raises": lambda x: 1 / 0,
}

def odd(part, found):
    where, _, way = os.environ.get("ODD", "").partition(" ")
    return WAYS[way](found) if where == part else found

@dataclass(frozen=True)
class Purifier:
    """A defense."""
    revision: ClassVar[int] = 1
    stochastic: ClassVar[bool] = False
    differentiable: ClassVar[bool] = True
    steps: int = 1
    def purify(self, x, *, rng):
        return odd("purifier", self.step(x, rng=rng))
    def step(self, x, *, rng):
        return odd("step", 1.0 * x)
    @property
    def energy(self):
        return lambda x: odd("energy", x.flatten(1).sum(1))

@dataclass(frozen=True)
class Attack:
    """An attack."""
    revision: ClassVar[int] = 1
    norms: ClassVar = (Norm.LINF,)
    accesses: ClassVar = (Access.FULL,)
    unbounded: ClassVar[bool] = False
    def __call__(self, view, x, y, *, threat, rng):
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(view(leaf, rng=rng).logsumexp(1).sum(), leaf)
        return odd("attack", (x + threat.radius * gradient.sign()).clamp(0, 1))
    def calls(self, *, stochastic, classes):
        return Calls()

class Net(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner
    def forward(self, x):
        return odd("classifier", self.inner(x))

@dataclass(frozen=True)
class Classifier(SmallCnn):
    """A classifier."""
    def load(self, weights, *, shape, classes):
        return Net(super().load(weights, shape=shape, classes=classes))
'''
POINTS = """
[bench.attacks]
odd = odd_plugins:Attack
[bench.defenses]
odd = odd_plugins:Purifier
[bench.classifiers]
odd = odd_plugins:Classifier
"""
NET = ("--classifier=odd", "--set=classifier.training.epochs=1")
SMALL = (*NET, "-n", "4", "--draws=1", "--eps=0.1")
RUN = ("run", "--defense=odd", "--attack=odd", *SMALL)
PLAN = (
    "defenses: [odd, none]\nattacks: [odd, {name: noise, set: {tries: 1}}]\nn: 4\ndraws: 1\n"
    "threats: {eps: 0.1}\naudit: 4\nclassifiers:\n"
    "  - {name: odd, set: {training: {epochs: 1}}}\n"
)
IMAGES, LOGITS = "Return one tensor (N, C, H, W)", "returns one tensor (N, K)"
WHOSE = {
    "purifier": "the purifier Purifier", "step": "the purifier Purifier",
    "classifier": "the classifier Net", "attack": "the attack Attack",
    "energy": "the energy of the purifier Purifier",
}  # fmt: skip
# What a part does, and what has to be said of it; "" where it is taken as it is.
ODD = {
    "purifier none": f"returned nothing (None), not images. {IMAGES}",
    "purifier tuple": f"returned a tuple, not images. {IMAGES}",
    "purifier numpy": f"returned a ndarray, not images. {IMAGES}",
    "purifier bytes": "type uint8. Return floating-point numbers",
    "purifier fewer": "Return one image of the same shape for each",
    "purifier nan": "returned NaN for images of the box [0, 1]. Check",
    "purifier raises": "failed: ZeroDivisionError",
    "purifier detached": "no gradient passes the defense: a purifier or classifier detaches",
    "purifier double": "",
    "purifier half": "",
    "classifier tuple": f"returned a tuple, not logits. Wrap it so that it {LOGITS}",
    "classifier dict": f"returned a dict, not logits. Wrap it so that it {LOGITS}",
    "classifier few": "has only 5 classes",
    "classifier flat": "Logits have shape (N, K)",
    "classifier nan": "returned NaN for images of the box [0, 1]. Check",
    "classifier double": "",
    "classifier half": "",
    "attack none": f"returned nothing (None), not images. {IMAGES}",
    "attack tuple": f"returned a tuple, not images. {IMAGES}",
    "attack bytes": "type uint8. Return floating-point numbers",
    "attack fewer": "Return one image of the same shape for each",
    "attack double": "",
}
# What every other command meets, since all of them go through one border.
EVERYWHERE = (
    "purifier none", "purifier detached", "classifier few", "classifier half", "attack none",
)  # fmt: skip
_MADE: list[Path] = []


@pytest.fixture
def odd(
    bench: Bench,
    install: Callable[..., Path],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[str], None]:
    """Install the plugins, copy a folder of sound cells, and return what turns them odd."""
    install("odd-plugins", "odd_plugins", SOURCE, POINTS)
    monkeypatch.setattr(run, "CHECKS", (gradient_exists, eight_bits_suffice))
    monkeypatch.setattr(run, "_accuracy", lambda *_: None)  # it takes five more attacks
    monkeypatch.setattr(traps, "spring", no_traps)
    monkeypatch.setattr(gaps, "CASES", gaps.CASES[:1])
    monkeypatch.setattr(gaps, "IMAGES", 20)
    monkeypatch.setattr(gaps, "catalogue", lambda kind: {"odd": None, "noise": None})
    (tmp_path / "plan.yaml").write_text(PLAN)
    if not _MADE:
        made = tmp_path_factory.mktemp("made") / "results"
        for words in (RUN, pag(1)):
            said = bench(*words, f"--results={made}")
            assert said.code == 0, said
        _MADE.append(made)
    shutil.copytree(_MADE[0], tmp_path / "results")
    return lambda way: monkeypatch.setenv("ODD", way)


def no_traps(*, workspace: object) -> object:
    yield from ()
    return []


def pag(n: int) -> tuple[str, ...]:
    return ("figure", "pag", "--defense=odd", *NET, "--steps=1", "-n", str(n), "-m", "1")


def whose(way: str) -> str:
    if way == "classifier few":
        return "the classifier odd"
    return "" if "detached" in way else WHOSE[way.split()[0]]


@pytest.mark.parametrize("way", ODD)
def test_a_run_says_what_a_plugin_returned(
    bench: Bench, odd: Callable[[str], None], way: str
) -> None:
    odd(way)
    said = bench(*RUN, "--seed=1")
    if ODD[way]:
        is_one_clear_message(said, whose(way), ODD[way], code=2 if "few" in way[-3:] else 1)
    else:
        assert said.code == 0, said


@pytest.mark.parametrize("way", EVERYWHERE)
def test_every_command_says_what_a_plugin_returned(
    bench: Bench, odd: Callable[[str], None], tmp_path: Path, way: str
) -> None:
    (key,) = (path.name for path in (tmp_path / "results" / "cells").iterdir())
    part, said, named = way.split()[0], ODD[way], whose(way)
    odd(way)
    if not said:
        taken_as_it_is(bench, key)
        return
    matrix = bench("matrix", "plan.yaml", "--json", "--results=plan")
    assert matrix.code == 1
    for row in json.loads(matrix.out):
        # A clean attack sees every part; only the judge asks for more than logits.
        bad = row[{"purifier": "defense"}.get(part, part)] == "odd"
        bad &= part != "purifier" or row["attack"] == "odd" or "detached" not in way
        assert row["state"] == ("failed" if bad else "done"), row
        assert (said in row["note"] and named in row["note"]) == bad, row
    assert "audit of none: " in matrix.err
    audit = bench("audit", "--defense=odd", *SMALL, "--json")
    figure, judge = bench(*pag(2)), bench("judge", key, "--bits=8")
    verify = bench("verify", "--votes")
    wrong = 2 if way.endswith("few") else 1
    if part == "classifier":
        for other in (audit, figure, judge):
            is_one_clear_message(other, named, said, code=wrong)
    elif part == "purifier":
        # What has no gradient is bounded; the rest is void, and says why.
        assert audit.code == 0, audit
        assert json.loads(audit.out)["state"] != "stands"
        assert figure.code == 1
        if "detached" not in way:
            assert said in audit.out
            is_one_clear_message(figure, named, said, code=1)
            is_one_clear_message(judge, named, said, code=1)
    if part != "attack" and "detached" not in way:
        assert "NOT CHECKED votes: " in verify.out
        assert said in verify.out
    for other in (matrix, audit, figure, verify, judge, bench("report", "--defense=odd",
                  "--eps=0.1"), bench("table"), bench("show", "odd")):  # fmt: skip
        assert "Traceback" not in other.out + other.err
        assert other.err.count("error: ") <= 1


def taken_as_it_is(bench: Bench, key: str) -> None:
    """Other floating-point types are cast, in every command."""
    for words in ((*RUN, "--seed=1"), ("matrix", "plan.yaml"), ("judge", key, "--bits=8"),
                  pag(2), ("verify",)):  # fmt: skip
        said = bench(*words)
        assert said.code == 0, (words, said)


@pytest.mark.parametrize("way", ["attack none", "attack fewer"])
def test_a_calibration_goes_on_beside_an_odd_attack(
    bench: Bench, odd: Callable[[str], None], way: str
) -> None:
    odd(way)
    said = bench("calibrate", "--json")
    assert said.code == 1
    assert "Traceback" not in said.err
    rows = json.loads(said.out)["known_answers"]
    assert {row["attack"] for row in rows if row["fault"]} == {"odd"}
    assert {row["attack"] for row in rows if row["passes"]} == {"noise"}
    assert all(ODD[way] in row["fault"] for row in rows if row["attack"] == "odd")
    assert WHOSE["attack"] in said.err


STEPS = {"step none": "returned nothing (None)", "step fewer": "one image of the same shape",
         "step raises": "failed: ZeroDivisionError", "energy none": "is no number per image",
         "energy raises": "failed: ZeroDivisionError"}  # fmt: skip


@pytest.mark.parametrize("way", STEPS)
def test_a_step_and_an_energy_are_checked_too(
    bench: Bench, odd: Callable[[str], None], way: str
) -> None:
    odd(way)
    part, figure = way.split()[0], ("figure", "strips", "--defense=odd", "--attack=odd")
    said = bench(*figure, *NET, "--eps=0.1", "-n", "4", "-m", "2")
    is_one_clear_message(said, WHOSE[part], STEPS[way], code=1)
    if part == "step":
        adaptive = ("--attack=adaptive", "--access=bpda", "--set=attack.steps=1")
        said = bench("run", "--defense=odd", *adaptive, *SMALL)
        is_one_clear_message(said, WHOSE[part], STEPS[way], code=1)
